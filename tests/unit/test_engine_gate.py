"""What runs inside vLLM's server around its application, the probe's verdict, and the sweep's choice."""

import asyncio
import multiprocessing
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tandem_sidecar.engine_auth import EngineAuthentication, Receive, Scope, Send
from tandem_sidecar.engine_gate import LOAD_PATH, PAUSE_PATH, RESUME_PATH, EngineGate, find_probe_problem
from tandem_sidecar.sweep import Segment, observe_mapped, observe_segments, plan_sweep

TOKEN = {"Authorization": "Bearer secret"}


class ScriptedScheduler:
    """Stands for vLLM's engine where the order of things matters: a prompt is answered by the second pause after it
    came, as one that reaches the scheduler just after all were aborted."""

    def __init__(self) -> None:
        self.engine_core = self
        self.pauses = 0
        self.arrived, self.answered = asyncio.Event(), False
        self._paused = asyncio.Condition()

    async def pause_scheduler_async(self, *, mode: str, clear_cache: bool) -> None:
        assert mode == "abort"
        assert clear_cache
        async with self._paused:
            self.pauses += 1
            self._paused.notify_all()

    async def resume_generation(self) -> None:
        pass

    async def start_weight_update(self) -> None:
        raise RuntimeError("no such file")

    async def generate(self, request: Request) -> JSONResponse:
        self.arrived.set()
        async with self._paused:
            last = self.pauses + 2
            await self._paused.wait_for(lambda: self.pauses >= last)
        self.answered = True
        return JSONResponse("aborted")


async def reached(request: Request) -> JSONResponse:
    return JSONResponse("reached")


@pytest.fixture
def scheduler() -> ScriptedScheduler:
    return ScriptedScheduler()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: ScriptedScheduler) -> httpx.AsyncClient:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("TANDEM_TOKEN_FILE", str(tmp_path / "token"))
    generate = Route("/generate", scheduler.generate, methods=["POST"])
    application = Starlette(routes=[generate, Route("/{path:path}", reached, methods=["GET", "POST"])])
    application.state.engine_client = scheduler
    application.add_middleware(EngineGate)
    application.add_middleware(EngineAuthentication)
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://engine")


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer another"}, {"Authorization": "secret"}])
async def test_without_the_token_only_health_answers(server: httpx.AsyncClient, header: dict[str, str]) -> None:
    assert (await server.get("/health")).status_code == 200
    for path in ("/", "/health/", "/metrics", "/v1/models"):
        assert (await server.get(path, headers=header)).status_code == 401
    assert (await server.post(RESUME_PATH, headers=header)).status_code == 401


async def test_a_web_socket_without_the_token_is_closed_before_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("TANDEM_TOKEN_FILE", str(tmp_path / "token"))
    reached, sent = [], []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    authentication = EngineAuthentication(application)
    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    await authentication(scope, receive, send)
    assert (reached, sent) == ([], ["websocket.close"])
    await authentication({**scope, "headers": [(b"authorization", b"Bearer secret")]}, receive, send)
    assert reached == ["/v1/realtime"]


async def test_prompts_wait_until_the_gate_opens(server: httpx.AsyncClient) -> None:
    server.headers.update(TOKEN)
    waiting = asyncio.create_task(server.post("/v1/completions"))
    assert (await server.post("/wake_up")).json() == "reached"
    assert (await server.get("/v1/models")).json() == "reached"
    assert not waiting.done()
    assert (await server.post(RESUME_PATH)).status_code == 200
    assert (await waiting).json() == "reached"
    assert (await server.post(PAUSE_PATH)).json()[0]["name"] == "pause"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await server.post("/inference/v1/generate")


async def test_a_pause_returns_when_all_have_been_answered_latecomers_too(
    server: httpx.AsyncClient, scheduler: ScriptedScheduler
) -> None:
    server.headers.update(TOKEN)
    await server.post(RESUME_PATH)
    answering = asyncio.create_task(server.post("/generate"))
    await scheduler.arrived.wait()
    await server.post(PAUSE_PATH)
    assert scheduler.answered
    assert (await answering).json() == "aborted"


async def test_the_gate_stays_closed_after_an_update_that_failed(server: httpx.AsyncClient) -> None:
    server.headers.update(TOKEN)
    await server.post(RESUME_PATH)
    failed = await server.post(LOAD_PATH, params={"path": "nowhere", "version": "7"})
    assert failed.status_code == 500
    assert "no such file" in failed.json()["error"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await server.post("/v1/completions")


@pytest.mark.parametrize(
    ("logprobs", "versions", "problem"),
    [
        ([-1.0, -2.0], ["7"], ""),
        ([-1.0, None], ["7"], "finite"),
        ([float("nan"), -2.0], ["7"], "finite"),
        ([float("-inf"), -2.0], ["7"], "finite"),
        ([], ["7"], "finite"),
        ([-1.0, -2.0], ["6"], "version 7"),
        ([-1.0, -2.0], ["6", "7"], "version 7"),
        ([-1.0, -2.0], [], "version 7"),
    ],
)
def test_a_probe_wants_finite_logprobs_of_the_loaded_version(
    logprobs: list[float | None], versions: list[str], problem: str
) -> None:
    text = find_probe_problem(logprobs, versions, "7")
    assert problem in text
    assert bool(text) == bool(problem)


def test_only_what_an_ended_engine_can_have_left_is_swept() -> None:
    segments = [
        Segment("psm_left", 1, 1000, 105.0),
        Segment("sem.mp-left", 2, 1000, 100.5),
        Segment("vllm_dist_left-tp:0-cpushm_0", 3, 1000, 105.0),
        Segment("psm_in_use", 4, 1000, 105.0),
        Segment("psm_of_an_earlier_process", 5, 1000, 50.0),
        Segment("psm_of_another_user", 6, 0, 105.0),
        Segment("tandem", 7, 1000, 105.0),
    ]
    assert plan_sweep(segments, {4}, 1000, 101.0) == ["psm_left", "sem.mp-left", "vllm_dist_left-tp:0-cpushm_0"]


def test_a_semaphore_that_a_process_uses_is_seen_to_be_mapped() -> None:
    # As those with which worker processes are started: of another pod on this machine, or of the trainer in this one.
    lock = multiprocessing.get_context("spawn").Lock()
    name = f"sem.{lock._semlock.name.removeprefix('/')}"
    (inode,) = (segment.inode for segment in observe_segments() if segment.name == name)
    assert inode in observe_mapped()
