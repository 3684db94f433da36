"""Inference pods are added to a running job and removed again: they work while others train, and nothing is lost. While
all parts run, none of them answers strangers. All of it with TLS: the other tests of whole jobs do without."""

import asyncio
import ipaddress
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.records import Control
from tandem_rollout import api as master
from tandem_sidecar import api as checkpoint_engine

from .open_ports import COMMON_PATHS, ENGINE_PATHS, find_answers, find_talkative, observe_ports
from .running_jobs import Runs

PROMPTS, GROUP_SIZE = 16, 4
JOB = (
    "spec.iterations=100000",
    "spec.security.tls=true",
    "spec.warmup.steps=5",
    f"spec.rollout.prompts={PROMPTS}",
    f"spec.rollout.groupSize={GROUP_SIZE}",
    "spec.rollout.maxTokens=48",
    "spec.elastic.max=1",
    "spec.evaluation={every: 0, prompts: 8}",
    "spec.checkpoint={every: 100000, keep: 2, size: 1Gi}",
)
NAME = "grows"
HEALTH = {
    "master": {"/healthz", "/readyz"},
    "checkpoint engine": {"/healthz", "/readyz"},
    "torchrun's agent": {"/healthz"},
    "vLLM": {"/health"},
}
"""What each part answers everybody: Kubernetes' probes show no token."""
PAGE = {"/ui/"}
"""The master's page, which has no data in it: it asks for them with the token that the user gives it."""
SPOKEN_TO_BY_NONE_ELSE = {"tandem_trainer", "VLLM::EngineCore"}
"""Programs with ports beside their API: gloo's between ranks, and the store in which ranks find each other."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[Runs, subprocess.Popen[bytes]]]":
    """A running job to which an inference pod was added, which has made tokens; and its runner."""
    with Runs(tmp_path_factory.mktemp("elastic"), JOB) as runs:
        runner = runs.start(NAME)
        asyncio.run(grow(runs))
        yield runs, runner


async def grow(runs: Runs) -> None:
    await runs.wait_for_summary(NAME, lambda summary: summary.iteration >= 2)
    runs.scale(NAME, 1)
    await runs.wait_for_summary(NAME, lambda summary: summary.inference_tokens > 0)


def own_paths() -> set[str]:
    """Of the master's and the checkpoint engine's API."""
    applications = (
        master.build_api(master.Presence("token")),
        checkpoint_engine.build_api(checkpoint_engine.Presence("pod", "sidecar", "token", Path())),
    )
    values = {"operation": "stop", "slot": "0", "name": "rank-0.bin"}
    routes = [route for each in applications for route in each.routes if isinstance(route, APIRoute)]
    return {re.sub(r"{(\w+)[^}]*}", lambda found: values.get(found[1], "1"), route.path) for route in routes}


@pytest.mark.timeout(900)
def test_without_the_token_nothing_but_health_is_answered(job: "tuple[Runs, subprocess.Popen[bytes]]") -> None:
    runs, _ = job
    paths = own_paths() | {*COMMON_PATHS, *ENGINE_PATHS}
    ports = observe_ports(runs.state(NAME)["run_id"])
    assert {port.part for port in ports} >= {*HEALTH, "etcd"}
    for port in ports:
        assert ipaddress.ip_address(port.address).is_loopback, port
        if port.part in HEALTH:
            answers = find_answers(port, "https", paths)
            assert HEALTH[port.part] <= {path for _, path, _ in answers} <= HEALTH[port.part] | PAGE, port
            assert {method for method, _, _ in answers} == {"GET"}, port
            assert not find_talkative([port]).get(port, b"").startswith(b"HTTP"), "it speaks without TLS"
    between_ranks = [port for port in ports if not port.part]
    assert {name for port in between_ranks for name in port.programs} <= SPOKEN_TO_BY_NONE_ELSE
    assert find_talkative(between_ranks) == {}


@pytest.mark.timeout(900)
async def test_a_pod_is_added_and_removed_while_the_job_goes_on(job: "tuple[Runs, subprocess.Popen[bytes]]") -> None:
    runs, runner = job
    grown = await runs.wait_for_summary(NAME, lambda summary: summary.inference_tokens > 0)
    await runs.wait_for_summary(NAME, lambda summary: summary.iteration >= grown.iteration + 5)
    runs.scale(NAME, 0)
    await runs.wait_for_state(NAME, lambda state: not any("inference" in pod["name"] for pod in state["pods"]))
    alone = await runs.wait_for_summary(NAME, lambda summary: True)
    last = await runs.wait_for_summary(NAME, lambda summary: summary.iteration >= alone.iteration + 4)
    assert last.inference_tokens == 0
    await stop(runs)
    assert runner.wait(180) == 0

    async with runs.open_buffer(NAME) as buffer:
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
    store, keys = await runs.open_store(NAME)
    async with store:
        control = await store.get(keys.control, Control) or Control()
        await store.put(keys.control, control.model_copy(update={"stop": True}))
