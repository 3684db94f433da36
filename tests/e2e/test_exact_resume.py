"""A job that was stopped and resumed takes the same batches, and ends with the same weights, as one never stopped."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tandem_core.batches import TrainingBatch
from tandem_core.phases import Phase

from .running_jobs import Runs

ITERATIONS = 6
REWARD = """
def parity(prompt, response, answer, row):
    return float(sum(map(ord, response)) % 2)
"""
JOB = (
    f"spec.iterations={ITERATIONS}",
    "spec.warmup.steps=15",
    "spec.rewards.scorers=[{type: function, function: 'parity_reward:parity'}]",
    "spec.algorithm.learningRate=0.002",
    "spec.rollout.prompts=12",
    "spec.rollout.groupSize=4",
    "spec.rollout.maxTokens=40",
    "spec.rollout.tokensPerIteration=12",
    "spec.evaluation.prompts=8",
    "spec.checkpoint.keep=20",  # batches older than the oldest checkpoint are forgotten
)
GREEDY = ("spec.rollout.temperature=0", "spec.algorithm.loss=rest")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "settings", [pytest.param(GREEDY, id="greedy"), pytest.param((), id="sampled", marks=pytest.mark.long)]
)
async def test_an_interrupted_job_ends_with_the_weights_of_one_that_was_not(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    """Stopped in the middle of rollouts and of training; and once the master is killed."""
    (tmp_path / "parity_reward.py").write_text(REWARD)
    with Runs(tmp_path, (*JOB, *settings)) as runs:

        def interrupted() -> None:
            runs.interrupt("interrupted", Phase.ROLLOUT, 2)
            runs.interrupt("interrupted", Phase.TRAINING, 3, "--resume")
            process = runs.start("interrupted", "--resume")
            asyncio.run(runs.wait_for_phase("interrupted", Phase.ROLLOUT, 5))
            runs.kill_master("interrupted")
            assert process.wait(600) == 0

        with ThreadPoolExecutor() as threads:
            for future in [threads.submit(runs.finish, "whole"), threads.submit(interrupted)]:
                future.result()
    async with runs.open_buffer("whole") as whole, runs.open_buffer("interrupted") as again:
        for iteration in range(1, ITERATIONS + 1):
            first, second = await whole.batch(iteration), await again.batch(iteration)
            assert first is not None
            assert second is not None
            assert_same(TrainingBatch.decode(first), TrainingBatch.decode(second))
            assert first == second
    weights, weights_again = (load_file(runs.model(name)) for name in ("whole", "interrupted"))
    assert weights.keys() == weights_again.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(tensor, weights_again[name], err_msg=name)


def assert_same(first: TrainingBatch, second: TrainingBatch) -> None:
    for name in ("lengths", "tokens", "rewards", "versions", "loss_mask", "behaviour_logprobs"):
        message = f"{name} of iteration {first.iteration}"
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=message)
