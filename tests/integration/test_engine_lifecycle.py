"""A pod's vLLM from its start to its end, however it ends. One checkpoint engine goes through all of it, in order."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tandem_core.coordination.records import EngineState, Member
from tandem_core.coordination.store import Store
from tandem_sidecar.engine_gate import LOAD_PATH, PAUSE_PATH, RESUME_PATH

from tests.integration.sidecar_pod import (
    HEADERS,
    SidecarPod,
    Trainer,
    free_address,
    generate,
    make_job,
    wait_until,
    wait_until_generating,
    wait_until_up,
)

GUARDED = (
    ("GET", "/metrics"),
    ("GET", "/ping"),
    ("GET", "/v1/models"),
    ("GET", "/weight_info"),
    ("POST", "/collective_rpc"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/invocations"),
    ("POST", "/pause"),
    *(("POST", path) for path in (PAUSE_PATH, RESUME_PATH, LOAD_PATH)),
)
"""Some of vLLM's endpoints, and the gate's own."""


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory, etcd_endpoint: str) -> Iterator[SidecarPod]:
    """With release none an engine is started at once, on dummy weights."""
    directory = tmp_path_factory.mktemp("lifecycle")
    pod = SidecarPod(directory, make_job(), "lifecycle", free_address(), etcd_endpoint)
    pod.start()
    yield pod
    assert pod.process is not None
    pod.process.kill()
    pod.process.wait(30)
    print(pod.log())


async def test_it_is_healthy_at_once_and_its_engine_follows(pod: SidecarPod, store: Store) -> None:
    started = time.monotonic()
    await wait_until_up(pod.url, "/healthz", 15)
    healthy = time.monotonic() - started
    member = await Trainer(store, pod).member(lambda member: member.engine.state is EngineState.IDLE)
    print(f"healthz after {healthy:.2f} s, engine after {time.monotonic() - started:.2f} s")
    assert member.url == pod.url
    assert member.engine.url == pod.engine_url
    assert member.engine.version == -1
    assert member.engine.restarts == 0


async def test_vllm_wants_the_token_everywhere_but_at_health(pod: SidecarPod) -> None:
    async with httpx.AsyncClient(base_url=pod.engine_url) as client:
        assert (await client.get("/health")).status_code == 200
        for method, path in GUARDED:
            assert (await client.request(method, path)).status_code == 401, path
            wrong = await client.request(method, path, headers={"Authorization": "Bearer another"})
            assert wrong.status_code == 401, path
        assert (await client.get("/weight_info", headers=HEADERS)).status_code == 200


async def test_the_checkpoint_engine_wants_the_token_everywhere_but_at_health(pod: SidecarPod) -> None:
    async with httpx.AsyncClient(base_url=pod.url) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/engine/stop"), ("POST", "/v1/weights/0/load")):
            assert (await client.request(method, path)).status_code == 401, path
        answer = (await client.get("/v1/status", headers=HEADERS)).json()
        missing = await client.post("/v1/weights/7/load", headers=HEADERS)
    assert answer["engine"]["state"] == "idle"
    assert missing.status_code == 404
    assert "version 7 is not committed" in missing.json()["detail"]


async def test_prompts_wait_while_weights_are_dummies(pod: SidecarPod) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await generate(pod.engine_url, [2, 3], 1)


async def test_a_pause_hands_back_partial_answers(pod: SidecarPod) -> None:
    async with httpx.AsyncClient(base_url=pod.engine_url, headers=HEADERS, timeout=30) as client:
        await client.post(RESUME_PATH)
        answering = asyncio.create_task(generate(pod.engine_url, [2, 3], 2000))
        await wait_until_generating(pod.engine_url)
    async with httpx.AsyncClient(base_url=pod.url, headers=HEADERS, timeout=30) as client:
        started = time.monotonic()
        paused = (await client.post("/v1/engine/pause")).json()
        choice = await answering
        print(f"paused and answered after {time.monotonic() - started:.3f} s, {len(choice['token_ids'])} tokens")
        assert paused["held"]
        assert choice["finish_reason"] == "abort"
        assert 0 < len(choice["token_ids"]) < 2000
        assert len(choice["logprobs"]["content"]) == len(choice["token_ids"])
        assert not (await client.post("/v1/engine/start")).json()["held"]


async def test_stop_leaves_nothing_and_a_start_takes_seconds(pod: SidecarPod) -> None:
    belongings = pod.observe_belongings()
    launcher, *engine = belongings.processes
    assert len(engine) >= 2, "there was nothing to leave behind"
    async with httpx.AsyncClient(base_url=pod.url, headers=HEADERS, timeout=60) as client:
        started = time.monotonic()
        await client.post("/v1/engine/stop")
        stopped = time.monotonic()
        assert belongings.remains() == [str(launcher.pid)], "the launcher forks the next one"
        restarted = time.monotonic()
        answer = (await client.post("/v1/engine/start")).json()
    print(f"stop took {stopped - started:.2f} s, start {time.monotonic() - restarted:.2f} s")
    assert answer["engine"]["state"] == "idle"
    assert answer["engine"]["restarts"] == 0
    assert answer["engine_pid"] not in [process.pid for process in engine]


async def test_an_engine_that_is_killed_comes_back(pod: SidecarPod, store: Store) -> None:
    async with httpx.AsyncClient(base_url=pod.url, headers=HEADERS, timeout=60) as client:
        before = (await client.get("/v1/status")).json()["engine_pid"]
        core = psutil.Process(before).children()[0]
        started = time.monotonic()
        os.kill(before, signal.SIGKILL)
        member = await Trainer(store, pod).member(
            lambda member: member.engine.restarts == 1 and member.engine.state is EngineState.IDLE
        )
        print(f"back after {time.monotonic() - started:.2f} s")
        assert member.engine.version == -1
        assert not core.is_running(), "its EngineCore outlived it"
        assert (await client.get("/v1/status")).json()["engine_pid"] not in (before, None)


async def test_an_engine_whose_core_is_killed_comes_back(pod: SidecarPod, store: Store) -> None:
    async with httpx.AsyncClient(base_url=pod.url, headers=HEADERS) as client:
        before = (await client.get("/v1/status")).json()["engine_pid"]
    psutil.Process(before).children()[0].kill()
    member = await Trainer(store, pod).member(
        lambda member: member.engine.restarts == 2 and member.engine.state is EngineState.IDLE
    )
    assert member.engine.state is EngineState.IDLE


async def test_an_engine_outlives_neither_its_launcher(pod: SidecarPod, store: Store) -> None:
    belongings = pod.observe_belongings()
    belongings.processes[0].kill()
    member = await Trainer(store, pod).member(
        lambda member: member.engine.restarts == 3 and member.engine.state is EngineState.IDLE
    )
    assert member.engine.version == -1
    assert not any(str(process.pid) in belongings.remains() for process in belongings.processes)


async def test_nor_a_checkpoint_engine_that_is_killed(pod: SidecarPod) -> None:
    belongings = pod.observe_belongings()
    assert len(belongings.processes) >= 3, "there was nothing to leave behind"
    pod.end(signal.SIGKILL)
    started = time.monotonic()
    await wait_until(lambda: not belongings.remains(), 30)
    print(f"gone after {time.monotonic() - started:.2f} s")


async def test_what_a_killed_pod_left_is_removed_by_the_next(pod: SidecarPod, store: Store) -> None:
    """Checkpoint engine and launcher killed at the same moment: an engine of several processes could live on."""
    left = sleeper()
    (pod.environment.shm_dir / "engine.json").write_text(
        f'{{"pid": {left.pid}, "created_at": {left.create_time()}, "started_at": {time.time() - 1}}}'
    )
    segment = Path("/dev/shm/psm_tandem_test")
    segment.write_bytes(b"left")  # noqa: ASYNC240
    pod.start()
    await wait_until_up(pod.url, "/readyz")
    await wait_until(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE, 30)
    await wait_until(lambda: not segment.exists(), 30)
    belongings = pod.observe_belongings()
    assert pod.end(signal.SIGTERM) == 0
    assert belongings.remains() == []
    assert not belongings.scratch.exists()
    assert await store.get(Trainer(store, pod).keys.member(pod.role, pod.environment.pod_name), Member) is None


def sleeper() -> psutil.Process:
    """A process in a session of its own, as an engine is."""
    return psutil.Process(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
