"""TRL's GRPO on a job's model, prompts, reward and settings, for a given time: what bench.trl_grpo compares with.

Run by bench.trl_grpo in a process of its own. Prints one line of JSON: seconds of each step, start-up apart.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tandem_core.job import RLJobSpec, load_job
from tandem_core.job.rewards import RegexReward
from tandem_rollout.prompts import load_prompts
from tandem_rollout.rewards.answers import AnsweredPrompt
from tandem_rollout.rewards.regex import RegexScorer
from tandem_rollout.tokenization import load_tokenizer
from transformers import AutoTokenizer, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer


class StopWatch(TrainerCallback):
    """Notes when steps end, and stops training once `seconds` have passed since the first one began."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.times: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times = [time.monotonic()]

    def on_step_end(self, _: Any, __: Any, control: Any, **___: Any) -> None:
        self.times.append(time.monotonic())
        control.should_training_stop = self.times[-1] - self.times[0] >= self._seconds


def build_config(spec: RLJobSpec, directory: Path) -> GRPOConfig:
    """TRL's settings that mean what the job's do."""
    algorithm, rollout = spec.algorithm, spec.rollout
    return GRPOConfig(
        output_dir=str(directory),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=rollout.prompts * rollout.group_size,
        num_generations=rollout.group_size,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        learning_rate=algorithm.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=algorithm.adam_beta1,
        adam_beta2=algorithm.adam_beta2,
        weight_decay=algorithm.weight_decay,
        max_grad_norm=algorithm.gradient_clip,
        epsilon=algorithm.clip_low,
        epsilon_high=algorithm.clip_high,
        loss_type="dapo",  # the mean over all tokens of the batch, as ours
        max_steps=100_000,
        seed=spec.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=50,
    )


def train(spec: RLJobSpec, model: Path, directory: Path, seconds: float) -> list[float]:
    """Train for `seconds` and save the model in `directory`; returns when each step ended (the first item: began)."""
    prompts = load_prompts(spec, load_tokenizer(model)).training
    (reward,) = spec.rewards.scorers
    assert isinstance(reward, RegexReward)
    scorer = RegexScorer(reward)

    def score(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
        rows = zip(prompts, completions, answer, strict=True)
        return [scorer.score(AnsweredPrompt(0, prompt, text, reference, {})) for prompt, text, reference in rows]

    watch = StopWatch(seconds)
    trainer = GRPOTrainer(
        model=str(model),
        reward_funcs=score,
        args=build_config(spec, directory),
        train_dataset=Dataset.from_list([{"prompt": each.text, "answer": each.answer} for each in prompts]),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        callbacks=[watch],
    )
    trainer.train()
    trainer.save_model(str(directory))
    return watch.times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("output", type=Path, help="where the trained model goes")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec = load_job(options.job, options.settings).spec
    assert spec.model.path is not None
    times = train(spec, Path(spec.model.path), options.output, options.seconds)
    print(json.dumps([after - before for before, after in pairwise(times)]))


if __name__ == "__main__":
    main()
