"""The least that trains by reinforcement learning: one Megatron process, one vLLM server, nothing in between.

    .venv/bin/python -m bench.bare_loop [examples/addition.yaml] --iterations 60

It does the work of a job's iterations: groups of answers to the same prompts, rewards, one optimiser step, the new
weights through shared memory. It has no coordination, no recording, no checks, and loses everything in a crash; what
Tandem adds to an iteration is measured against it (bench.iteration). Prints JSON: seconds of each part by iteration.
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from safetensors.torch import save_file
from tandem_core.job import RLJobSpec, load_job
from tandem_core.model_files import prepare_model
from tandem_rollout.prompts import Prompt, load_prompts
from tandem_rollout.tokenization import Tokenizer, load_tokenizer
from tandem_trainer import cpu_shim
from tandem_trainer.architecture import load_architecture
from tandem_trainer.initial_weights import RandomWeights, load_pieces
from tandem_trainer.model import build_config, build_model
from tandem_trainer.naming import Piece, name_parameters, own_slices
from tandem_trainer.optimizer import build_optimizer, set_learning_rate, wrap_model
from tandem_trainer.parallel import join_process_group, plan_patience, split_model

from bench.bare_engine import BareEngine
from tools.free_ports import find_free_port

type Sample = tuple[Sequence[int], Sequence[int], Sequence[float], float]
"""Prompt, answer, the engine's log-probabilities, advantage."""


class BareTrainer:
    """The model of a job, trained on padded batches in one pass."""

    def __init__(self, spec: RLJobSpec, model_dir: Path) -> None:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = str(find_free_port())
        cpu_shim.install()
        device = join_process_group(spec.hybrid, plan_patience(spec.deadlines))
        self._layout = split_model(spec.hybrid, spec.seed, plan_patience(spec.deadlines))
        self._architecture = load_architecture(model_dir)
        config = build_config(self._architecture, spec.hybrid.trainer, self._layout, device)
        self._bare = build_model(config, self._architecture, self._layout, device)
        load_pieces(self._pieces(), RandomWeights(model_dir, spec.seed))
        self._model = wrap_model(config, self._bare)
        self._optimizer = build_optimizer(config, self._model, spec.algorithm)
        self._optimizer.reload_model_params()
        self._schedule = get_forward_backward_func()
        self._algorithm = spec.algorithm

    def imitate(self, samples: Sequence[Sample], learning_rate: float) -> None:
        """One supervised step."""
        self._step(samples, learning_rate, lambda logprobs, mask, _, __: -(logprobs * mask).sum() / mask.sum())

    def train(self, samples: Sequence[Sample]) -> None:
        """One step of online mirror descent; the policy is still the reference, so that its pull is zero."""
        cap = self._algorithm.importance_cap

        def loss(logprobs: torch.Tensor, mask: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor) -> Any:
            reference = logprobs.detach()
            ratio = ((logprobs - reference) * mask).sum(1)
            weights = (reference - old).exp().clamp(max=cap) * advantages[:, None] * mask
            pull = self._algorithm.tau / 2 * ratio.square().sum()
            return (pull - (weights * logprobs).sum()) / len(samples)

        self._step(samples, self._algorithm.learning_rate, loss)

    def publish(self, file: Path) -> None:
        """Write all weights under Hugging Face names."""
        tensors = {piece.name: piece.tensor.contiguous() for piece in own_slices(self._pieces(), self._layout)}
        save_file(tensors, file)

    def _pieces(self) -> list[Piece]:
        return list(name_parameters(self._bare.named_parameters(), 0, self._architecture, self._layout))

    def _step(self, samples: Sequence[Sample], learning_rate: float, loss: Any) -> None:
        length = max(len(prompt) + len(answer) for prompt, answer, _, _ in samples) - 1
        tokens = torch.zeros(len(samples), length + 1, dtype=torch.int64)
        mask, old = torch.zeros(len(samples), length), torch.zeros(len(samples), length)
        for row, (prompt, answer, logprobs, _) in enumerate(samples):
            start, end = len(prompt), len(prompt) + len(answer)
            tokens[row, :end] = torch.tensor([*prompt, *answer])
            mask[row, start - 1 : end - 1] = 1
            old[row, start - 1 : end - 1] = torch.tensor(logprobs)
        advantages = torch.tensor([advantage for *_, advantage in samples])
        positions = torch.arange(length).expand(len(samples), length)

        def forward(batches: Any, model: Any) -> Any:
            next(batches)
            # Without a mask the attention is causal, and what pads a row stands behind it.
            losses = model(tokens[:, :-1].contiguous(), positions, None, labels=tokens[:, 1:].contiguous())
            return losses, lambda losses: (loss(-losses, mask, old, advantages), {})

        self._model.zero_grad_buffer()
        self._optimizer.zero_grad()
        self._schedule(
            forward_step_func=forward, data_iterator=iter([0]), model=[self._model], num_microbatches=1,
            seq_length=length, micro_batch_size=len(samples), forward_only=False,
        )  # fmt: skip
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()


def warm_up(trainer: BareTrainer, spec: RLJobSpec, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> None:
    """The job's supervised steps, so that answers end as its answers do."""
    targets = tokenizer.encode([prompt.target for prompt in prompts], special_tokens=False)
    examples = [
        (prompt.tokens, [*target, tokenizer.eos_token_id], [0.0] * (len(target) + 1), 1.0)
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    endless = cycle(examples)
    for _ in range(spec.warmup.steps):
        trainer.imitate(list(islice(endless, spec.warmup.batch_size)), spec.warmup.learning_rate)


def score(groups: Sequence[Sequence[dict[str, Any]]], prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[Sample]:
    """Rewards (1 for the right answer) and advantages."""
    samples: list[Sample] = []
    for prompt, choices in zip(prompts, groups, strict=True):
        answers = [choice["token_ids"] for choice in choices]
        rewards = [float(tokenizer.decode(answer) == prompt.answer) for answer in answers]
        mean = sum(rewards) / len(rewards)
        for choice, answer, reward in zip(choices, answers, rewards, strict=True):
            logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
            samples.append((prompt.tokens, answer, logprobs, reward - mean))
    return samples


async def run(spec: RLJobSpec, iterations: int, port: int) -> dict[str, Any]:
    """Seconds of each part by iteration, and mean tokens of an answer."""
    shared = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        model_dir = prepare_model(spec.model, shared)
        engine = BareEngine(spec, model_dir, port)
        tokenizer = load_tokenizer(model_dir)
        prompts = load_prompts(spec, tokenizer).training
        trainer = BareTrainer(spec, model_dir)
        warm_up(trainer, spec, prompts, tokenizer)
        endless = cycle(prompts)
        parts: dict[str, list[float]] = {"weights": [], "rollouts": [], "training": []}
        tokens = 0
        async with engine:
            for iteration in range(1, iterations + 1):
                marks = [time.perf_counter()]
                trainer.publish(shared / "weights.safetensors")
                await engine.update(shared / "weights.safetensors", iteration - 1)
                marks.append(time.perf_counter())
                asked = list(islice(endless, spec.rollout.prompts))
                groups = await engine.generate([prompt.tokens for prompt in asked], seed=iteration * 1_000_000)
                samples = score(groups, asked, tokenizer)
                marks.append(time.perf_counter())
                trainer.train(samples)
                marks.append(time.perf_counter())
                tokens += sum(len(answer) for _, answer, _, _ in samples)
                for part, before, after in zip(parts, marks, marks[1:], strict=False):
                    parts[part].append(after - before)
        return {**parts, "tokens_each": tokens / (iterations * spec.rollout.prompts * spec.rollout.group_size)}
    finally:
        shutil.rmtree(shared)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, nargs="?", default=Path("examples/addition.yaml"))
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as for tandem run")
    parser.add_argument("--port", type=int, default=8190)
    options = parser.parse_args()
    spec = load_job(options.job, options.set).spec
    print(json.dumps(asyncio.run(run(spec, options.iterations, options.port))))


if __name__ == "__main__":
    main()
