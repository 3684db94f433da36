"""The reward `code`: programs of the model are judged, and what the sandbox fails at is worth nothing, not even 0."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import yaml
from tandem_core.job import RLJobSpec, parse_job
from tandem_rollout.prompts import Prompt
from tandem_rollout.rewards.answers import RewardError
from tandem_rollout.rewards.scoring import Answer, Scoring
from tandem_rollout.trajectory import FinishReason

from .conftest import TOKEN, RunningSandbox

TESTS = [{"stdin": f"{n} {n + 1}", "expected": str(2 * n + 1)} for n in range(4)]


def job(**reward: Any) -> RLJobSpec:
    spec = {
        "iterations": 1,
        "model": {"scratch": {"tokenizer": {"tokens": ["a"]}}},
        "data": {"dataset": {"path": "programs.jsonl"}},
        "rewards": {"scorers": [{"type": "code", **reward}]},
        "hybrid": {"device": "cpu", "inference": {"release": "none", "kvCacheBytes": 67108864}},
    }
    header = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": {"name": "code"}}
    return parse_job(yaml.safe_dump({**header, "spec": spec})).spec


def answer(text: str, reference: str = "7", **row: Any) -> Answer:
    return Answer(Prompt(3, "Add.", reference, {"tests": TESTS, **row}, None, (1,), reference), text, FinishReason.STOP)


async def rewards(spec: RLJobSpec, *answers: Answer) -> list[float | None]:
    async with Scoring(spec) as scoring:
        return [score.reward if score is not None else None for score in await scoring.score(answers)]


@pytest.fixture
def at(sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where the shared sandbox is."""
    monkeypatch.setenv("TANDEM_SANDBOX_TOKEN", TOKEN)
    return {"sandboxUrl": sandbox.url, "memoryBytes": 128 << 20, "cpuSeconds": 1}


async def test_all_cases_must_pass_or_the_share_counts(at: dict[str, Any]) -> None:
    right = "a, b = map(int, input().split()); print(a + b)"
    half = "a, b = map(int, input().split()); print(a + b if a < 2 else 0)"
    fenced = f"Let me think.\n```\nwrong\n```\nBetter:\n```python\n{right}\n```\nDone."
    texts = [right, half, fenced, "not Python", "", "while True: pass"]
    assert await rewards(job(casesField="tests", **at), *map(answer, texts)) == [1, 0, 1, 0, 0, 0]
    assert await rewards(job(casesField="tests", partial=True, **at), answer(half)) == [0.5]


async def test_without_cases_the_output_is_the_reference(at: dict[str, Any]) -> None:
    assert await rewards(job(program="print({{ response }})", **at), answer("3 + 4"), answer("3 + 5")) == [1, 0]
    lone = "print(1)  # \ud800"
    assert await rewards(job(**at), answer(lone, "1")) == [1]


async def test_a_job_that_names_no_sandbox_gets_one_of_its_own(sandbox: RunningSandbox) -> None:
    assert sandbox.process is not None
    assert await rewards(job(language="bash"), answer("echo $((3 + 4))")) == [1]


@pytest.mark.parametrize(
    ("row", "words"), [({"tests": []}, "no test case"), ({"tests": [{"in": 1}]}, "list of {stdin, expected}")]
)
async def test_cases_that_cannot_be_used_are_named(at: dict[str, Any], row: dict[str, Any], words: str) -> None:
    with pytest.raises(RewardError, match=words):
        await rewards(job(casesField="tests", **at), answer("print(1)", **row))


@contextmanager
def failing_sandbox(failures: int) -> Iterator[tuple[str, list[int]]]:
    """Fails at every program that says `bad` so many times, as the sandbox says it; judges all others right."""
    asked: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            programs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["programs"]
            asked.append(len(programs))
            bad = len(asked) <= failures
            verdicts = ["IE" if bad and "bad" in each["code"] else "OK" for each in programs]
            body = json.dumps({"programs": [{"verdict": each} for each in verdicts]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


async def test_what_the_sandbox_fails_at_is_tried_again_alone(at: dict[str, Any]) -> None:
    with failing_sandbox(2) as (url, asked):
        spec = job(**at | {"sandboxUrl": url})
        assert await rewards(spec, answer("good"), answer("bad"), answer("good")) == [1, 1, 1]
        assert asked == [3, 1, 1]


async def test_what_it_always_fails_at_is_dropped_and_counted_and_never_zero(at: dict[str, Any]) -> None:
    with failing_sandbox(1000) as (url, _):
        async with Scoring(job(**at | {"sandboxUrl": url})) as scoring:
            scores = await scoring.score([answer("good"), answer("bad"), answer("good")])
            assert [score is None for score in scores] == [False, True, False]
            assert scoring.dropped == {"code": 1}
            with pytest.raises(RewardError, match="look at its log"):
                await scoring.score([answer("bad")] * 40)


async def test_a_sandbox_that_is_not_ours_to_ask_is_an_error_and_no_reward(
    at: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_SANDBOX_TOKEN", "wrong")
    with pytest.raises(RewardError, match="401"):
        await rewards(job(**at), answer("print(1)"))
    monkeypatch.delenv("TANDEM_SANDBOX_TOKEN")
    with pytest.raises(RewardError, match="TANDEM_SANDBOX_TOKEN is not set"):
        await rewards(job(**at), answer("print(1)"))
