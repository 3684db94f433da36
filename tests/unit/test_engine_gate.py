"""What runs inside vLLM's server around its application, the probe's verdict, and the sweep's choice."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from tandem_sidecar.engine_auth import EngineAuthentication, Receive, Scope, Send, answer_json
from tandem_sidecar.engine_client import find_probe_problem
from tandem_sidecar.engine_gate import GATE_PATH, PROBE_HEADER, EngineGate
from tandem_sidecar.sweep import Segment, plan_sweep

TOKEN = {"Authorization": "Bearer secret"}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers everything."""
    await answer_json(send, 200, b'"reached"')


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("TANDEM_TOKEN_FILE", str(tmp_path / "token"))
    wrapped = EngineAuthentication(EngineGate(application))
    return httpx.AsyncClient(transport=httpx.ASGITransport(wrapped), base_url="http://engine")


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer another"}, {"Authorization": "secret"}])
async def test_without_the_token_only_health_answers(server: httpx.AsyncClient, header: dict[str, str]) -> None:
    assert (await server.get("/health")).status_code == 200
    for path in ("/", "/health/", "/metrics", "/v1/models"):
        assert (await server.get(path, headers=header)).status_code == 401
    assert (await server.post(GATE_PATH, params={"open": "true"}, headers=header)).status_code == 401


async def test_prompts_wait_until_the_gate_opens(server: httpx.AsyncClient) -> None:
    server.headers.update(TOKEN)
    waiting = asyncio.create_task(server.post("/v1/completions"))
    assert (await server.post("/update_weights")).json() == "reached"
    assert (await server.get("/v1/models")).json() == "reached"
    assert (await server.post("/v1/completions", headers={PROBE_HEADER: "1"})).json() == "reached"
    assert not waiting.done()
    assert (await server.post(GATE_PATH, params={"open": "true"})).json() == {"open": True}
    assert (await waiting).json() == "reached"
    assert (await server.post(GATE_PATH, params={"open": "false"})).json() == {"open": False}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await server.post("/inference/v1/generate")


def answer(logprobs: list[float | None], versions: list[str]) -> dict[str, Any]:
    spans = [{"version": version, "start": 0, "end": 2} for version in versions]
    content = [{"token_id": 1, "logprob": value} for value in logprobs]
    return {"choices": [{"logprobs": {"content": content}, "weight_versions": spans}]}


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (answer([-1.0, -2.0], ["7"]), ""),
        (answer([-1.0, None], ["7"]), "finite"),
        (answer([float("nan"), -2.0], ["7"]), "finite"),
        (answer([float("-inf"), -2.0], ["7"]), "finite"),
        (answer([], ["7"]), "finite"),
        (answer([-1.0, -2.0], ["6"]), "version 7"),
        (answer([-1.0, -2.0], ["6", "7"]), "version 7"),
        (answer([-1.0, -2.0], []), "version 7"),
        ({}, "finite"),
    ],
)
def test_a_probe_wants_finite_logprobs_of_the_loaded_version(found: dict[str, Any], problem: str) -> None:
    text = find_probe_problem(found, 7)
    assert problem in text
    assert bool(text) == bool(problem)


def test_only_what_an_ended_engine_can_have_left_is_swept() -> None:
    segments = [
        Segment("psm_left", 1000, 105.0),
        Segment("sem.mp-left", 1000, 100.5),
        Segment("vllm_dist_left-tp:0-cpushm_0", 1000, 105.0),
        Segment("psm_in_use", 1000, 105.0),
        Segment("psm_of_an_earlier_process", 1000, 50.0),
        Segment("psm_of_another_user", 0, 105.0),
        Segment("tandem", 1000, 105.0),
    ]
    assert plan_sweep(segments, {"psm_in_use"}, 1000, 101.0) == [
        "psm_left",
        "sem.mp-left",
        "vllm_dist_left-tp:0-cpushm_0",
    ]
