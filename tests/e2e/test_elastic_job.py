"""Inference pods are added to a running job and removed again: they work while others train, and nothing is lost."""

from pathlib import Path

import pytest
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.records import Control

from .running_jobs import Runs

PROMPTS, GROUP_SIZE = 16, 4
JOB = (
    "spec.iterations=100000",
    "spec.warmup.steps=5",
    f"spec.rollout.prompts={PROMPTS}",
    f"spec.rollout.groupSize={GROUP_SIZE}",
    "spec.rollout.maxTokens=48",
    "spec.elastic.max=1",
    "spec.evaluation={every: 0, prompts: 8}",
    "spec.checkpoint={every: 100000, keep: 2, size: 1Gi}",
)


@pytest.mark.timeout(900)
async def test_a_pod_is_added_and_removed_while_the_job_goes_on(tmp_path: Path) -> None:
    with Runs(tmp_path, JOB) as runs:
        process = runs.start("grows")
        await runs.wait_for_summary("grows", lambda summary: summary.iteration >= 2)
        runs.scale("grows", 1)
        grown = await runs.wait_for_summary("grows", lambda summary: summary.inference_tokens > 0)
        await runs.wait_for_summary("grows", lambda summary: summary.iteration >= grown.iteration + 5)
        runs.scale("grows", 0)
        await runs.wait_for_state("grows", lambda state: not any("inference" in pod["name"] for pod in state["pods"]))
        alone = await runs.wait_for_summary("grows", lambda summary: True)
        last = await runs.wait_for_summary("grows", lambda summary: summary.iteration >= alone.iteration + 4)
        assert last.inference_tokens == 0
        await stop(runs)
        assert process.wait(180) == 0

    async with runs.open_buffer("grows") as buffer:
        records = {record.iteration: record for record in await buffer.iterations() if record.iteration}
        assert list(records) == list(range(1, len(records) + 1))
        assert all(record.metrics["trained_samples"] == PROMPTS * GROUP_SIZE for record in records.values())
        behind = set()
        for iteration in records:
            data = await buffer.batch(iteration)
            assert data is not None
            versions = TrainingBatch.decode(data).versions
            behind |= set((iteration - 1 - versions[versions >= 0]).tolist())
    # Without carried-over answers only an inference pod can have made tokens of a version before: during Training.
    assert behind == {0, 1}


async def stop(runs: Runs) -> None:
    store, keys = await runs.open_store("grows")
    async with store:
        control = await store.get(keys.control, Control) or Control()
        await store.put(keys.control, control.model_copy(update={"stop": True}))
