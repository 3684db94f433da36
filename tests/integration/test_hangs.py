"""Engines that hang, without anybody who looks after them. SIGSTOP makes a process hang, and nobody continues it."""

import asyncio
from collections.abc import Iterator

import httpx
import psutil
import pytest
from tandem_core.coordination.records import EngineState
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase
from tandem_sidecar import engine_watch
from tandem_sidecar.engine_client import EngineClient
from tandem_sidecar.engine_watch import wait_for_hang

from tests.integration.sidecar_pod import SidecarPod, Trainer, free_address, generate, make_job, wait_until_generating

PROMPT = [2, 5, 3, 6]


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory, etcd_endpoint: str) -> Iterator[SidecarPod]:
    pod = SidecarPod(tmp_path_factory.mktemp("hangs"), make_job(), "hangs", free_address(), etcd_endpoint)
    with pod.running():
        yield pod
    print(pod.log())


async def serve(store: Store, pod: SidecarPod) -> Trainer:
    """The pod serves version 0."""
    trainer = Trainer(store, pod)
    await trainer.member(lambda member: member.engine.state in (EngineState.IDLE, EngineState.SERVING))
    await trainer.publish(0, trainer.make_weights(0)[1])
    await trainer.enter(Phase.ROLLOUT, 1, 0)
    await trainer.serving(0)
    return trainer


@pytest.mark.parametrize("stopped", [("server",), ("core",), ("launcher", "core")], ids=" and ".join)
async def test_an_engine_of_which_a_process_is_stopped_is_replaced(
    pod: SidecarPod, store: Store, stopped: tuple[str, ...]
) -> None:
    trainer = await serve(store, pod)
    before = (await trainer.serving(0)).engine
    answering = asyncio.create_task(generate(pod.engine_url, PROMPT, 1500))
    await wait_until_generating(pod.engine_url)
    processes = dict(zip(("launcher", "server", "core"), pod.observe_belongings().processes, strict=False))
    for name in stopped:
        processes[name].suspend()
    with pytest.raises(httpx.TransportError):  # at once, so that the request can go elsewhere
        await answering
    await trainer.member(lambda member: member.engine.restarts > before.restarts)
    await trainer.serving(0)
    assert len((await generate(pod.engine_url, PROMPT, 4))["token_ids"]) == 4


@pytest.mark.parametrize(("work", "hangs"), [("sleep 600", True), ("while :; do :; done", False)])
async def test_an_engine_that_does_not_answer_hangs_only_if_it_does_not_work_either(
    monkeypatch: pytest.MonkeyPatch, work: str, hangs: bool
) -> None:
    monkeypatch.setattr(engine_watch, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(engine_watch, "PROGRESS_SECONDS", 0.02)
    answers = asyncio.Semaphore(2)  # one question: it takes two requests

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await answers.acquire()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    process = psutil.Popen(["/bin/sh", "-c", work])
    try:
        async with EngineClient(url, "t") as client, asyncio.timeout(60):
            watching = asyncio.create_task(wait_for_hang(client, process.pid, lambda: False))
            await asyncio.wait([watching], timeout=None if hangs else 5.0)
            assert watching.done() == hangs
            watching.cancel()
    finally:
        server.close()
        process.kill()
        process.wait()


async def test_an_engine_that_never_answered_after_its_start_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It died as soon as it served, and its server stays."""
    monkeypatch.setattr(engine_watch, "CHECK_SECONDS", 0.1)
    process = psutil.Popen(["sleep", "600"])
    try:
        async with EngineClient("http://127.0.0.1:1", "t") as client, asyncio.timeout(60):
            assert "neither answers nor works" in await wait_for_hang(client, process.pid, lambda: False)
    finally:
        process.kill()
        process.wait()


async def test_an_engine_that_is_stopped_before_it_listens_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_watch, "CHECK_SECONDS", 0.1)
    process = psutil.Popen(["sleep", "600"])
    try:
        async with EngineClient("http://127.0.0.1:1", "t") as client, asyncio.timeout(60):
            watching = asyncio.create_task(wait_for_hang(client, process.pid, lambda: True))
            process.suspend()
            assert await watching == f"processes {process.pid} of it are stopped"
    finally:
        process.kill()
        process.wait()
