"""Tandem against TRL's GRPO: answers a second of the whole loop, and what a model learns in equal time.

    python -m bench.trl_grpo [--iterations 100] [--no-write]

Both start from the base model of the ablations (made first if it is not there: minutes) and learn the same problems
with the same loss, batch, optimiser, precision (fp32) and threads. TRL trains for as long as Tandem's iterations took;
start-up is apart for both. All trained models are then asked the same held-out problems by the same code.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tandem_core.job import RLJobSpec, load_job
from tandem_core.job.rewards import RegexReward
from tandem_local.run_directory import tandem_home
from tandem_rollout.prompts import load_prompts
from tandem_rollout.rewards.answers import AnsweredPrompt
from tandem_rollout.rewards.regex import RegexScorer
from tandem_rollout.storage.history_file import open_history
from tandem_rollout.tokenization import load_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.ablations.runs import JOB, from_base_model, run_job
from bench.page import describe_machine, write_section
from bench.switches import read_run


@dataclass(frozen=True)
class Result:
    """What one loop did in the given time."""

    name: str
    startup_seconds: float
    step_seconds: tuple[float, ...]
    accuracy: float
    parts: str = ""
    """Where an iteration's time went; empty: not known."""

    def row(self, answers: int, rival: "Result") -> str:
        """Of the table; `rival` is what the rate is compared with."""
        rate, rival_rate = (answers * len(each.step_seconds) / sum(each.step_seconds) for each in (self, rival))
        return (
            f"| {self.name} | {rate:.0f} | {rate / rival_rate:.2f} | {statistics.median(self.step_seconds):.2f} s | "
            f"{len(self.step_seconds)} | {self.accuracy:.3f} | {self.startup_seconds:.0f} s |"
        )


def run_tandem(settings: Sequence[str], home: Path, spec: RLJobSpec, threads: int) -> Result:
    """The job through `tandem run`; phases follow each other without a gap, so that they are all of an iteration."""
    started = time.monotonic()
    run = f"against-trl-{threads}"
    directory = run_job(run, (*settings, f"spec.hybrid.trainer.threads={threads}"), home)
    whole = time.monotonic() - started
    with open_history(next(directory.rglob("replay.sqlite"))) as history:
        iterations = history.iterations()
    phases = [sum(record.phase_seconds.values()) for record in iterations if record.iteration]
    model = next(directory.rglob("model.safetensors")).parent
    split = read_run(home, run)
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in split.work.items())
    parts += f", all the rest {split.orchestration:.2f} s"
    return Result(_name("Tandem", threads), whole - sum(phases), tuple(phases), evaluate(model, spec), parts)


def run_trl(settings: Sequence[str], seconds: float, spec: RLJobSpec, threads: int) -> Result:
    """bench.trl_loop for `seconds`."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "bench.trl_loop", str(JOB), directory, "--seconds", str(seconds)]
        command += ["--threads", str(threads)]
        for setting in settings:
            command += ["--set", setting]
        started = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        whole = time.monotonic() - started
        steps = tuple(json.loads(output.splitlines()[-1]))
        return Result(_name("TRL", threads), whole - sum(steps), steps, evaluate(Path(directory), spec))


def _name(loop: str, threads: int) -> str:
    return f"{loop}, {threads} thread{'s' if threads > 1 else ''}"


@torch.no_grad()
def evaluate(model_directory: Path, spec: RLJobSpec) -> float:
    """Share of right greedy answers to the held-out problems."""
    (reward,) = spec.rewards.scorers
    assert isinstance(reward, RegexReward)
    scorer = RegexScorer(reward)
    prompts = load_prompts(spec, load_tokenizer(model_directory)).held_out
    model = AutoModelForCausalLM.from_pretrained(model_directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_directory, padding_side="left")
    inputs = tokenizer([prompt.text for prompt in prompts], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=spec.rollout.max_tokens)
    texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    answers = (
        AnsweredPrompt(prompt.id, prompt.text, text, prompt.answer, prompt.row)
        for prompt, text in zip(prompts, texts, strict=True)
    )
    return statistics.fmean(scorer.score(answer) for answer in answers)


def build_section(spec: RLJobSpec, before: float, results: Sequence[Result]) -> str:
    """Markdown; Tandem's and TRL's results take turns."""
    rollout, rate = spec.rollout, spec.algorithm.learning_rate
    answers, pairs = rollout.prompts * rollout.group_size, zip(results[::2], results[1::2], strict=True)
    rows = "\n".join(each.row(answers, trl) for tandem, trl in pairs for each in (tandem, trl))
    return f"""`python -m bench.trl_grpo`. {describe_machine()}

Model (0.5 M parameters) and problems of [the ablations](ablations.md), fp32, {rollout.prompts} prompts of
{rollout.group_size} answers of at most {rollout.max_tokens} tokens, clipped GRPO, one update an iteration,
learning rate {rate}. TRL trained for as long as Tandem's iterations took with as many threads; start-up and end are
apart.
Accuracy is greedy, on held-out problems, asked by the same code; before training: {before:.3f}. One run each; the
standard error of an accuracy is 0.02.

| | answers/s | to TRL | median step | steps | accuracy after | start-up and end |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

TRL generates with transformers' `generate`, in the process that trains. Its vLLM modes do not work without a GPU:
`colocate` hands weights to `model.load_weights`, which vLLM for CPU refuses after its start (weights are packed then),
and `server` sends them by NCCL. Tandem's trainer and its engine have so many threads each and take turns; with one, an
iteration is {results[0].parts}. With so small a model it is mostly vLLM's and Megatron's work in Python,
which transformers has less of.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    home = tandem_home() / "ablations"
    settings = (*from_base_model(home), "spec.algorithm.loss=grpo", f"spec.iterations={options.iterations}")
    settings += ("spec.evaluation.every=0", "spec.evaluation.prompts=1")
    spec = load_job(JOB, settings).spec
    assert spec.model.path is not None
    results: list[Result] = []
    for threads in (1, 2):
        results.append(run_tandem(settings, home, spec, threads))
        results.append(run_trl(settings, sum(results[-1].step_seconds), spec, threads))
    section = build_section(spec, evaluate(Path(spec.model.path), spec), results)
    print(section)
    if not options.no_write:
        write_section("trl", section)


if __name__ == "__main__":
    main()
