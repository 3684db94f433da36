"""Scoring of answers: what each scorer gives, and what happens when one misbehaves."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest
import yaml
from tandem_core.job import RLJobSpec, parse_job
from tandem_rollout.prompts import Prompt
from tandem_rollout.rewards.answers import RewardError
from tandem_rollout.rewards.scoring import Answer, Scoring
from tandem_rollout.trajectory import FinishReason, Score

GYM = {"reasoningGym": {"task": "basic_arithmetic", "size": 50}}


def job(*scorers: dict[str, Any], **rewards: Any) -> RLJobSpec:
    spec = {
        "iterations": 1,
        "model": {"scratch": {"tokenizer": {"tokens": ["a"]}}},
        "data": GYM,
        "rewards": {"timeoutSeconds": 20, **rewards, "scorers": list(scorers)},
        "hybrid": {"device": "cpu", "inference": {"release": "none", "kvCacheBytes": 67108864}},
    }
    header = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": {"name": "rewards"}}
    return parse_job(yaml.safe_dump({**header, "spec": spec})).spec


def answer(text: str, reference: str = "47", *, reason: FinishReason = FinishReason.STOP, **row: Any) -> Answer:
    entry = {"question": "Calculate 32 + 15.", "answer": reference, "metadata": {}, **row}
    return Answer(Prompt(3, "Calculate 32 + 15.", reference, entry, None, (1,), reference), text, reason)


def function(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": f"reward_functions:{name}", "arguments": arguments}


async def score(spec: RLJobSpec, *answers: Answer) -> list[Score]:
    async with Scoring(spec) as scoring:
        return await scoring.score(answers)


def rewards(scores: list[Score]) -> list[float]:
    return [round(each.reward, 3) for each in scores]


@pytest.fixture(autouse=True)
def _functions_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


async def test_exact_takes_the_same_text_apart_from_white_space() -> None:
    given = [answer(text) for text in ("47", " 47\n", "48", "the 47", "")]
    assert rewards(await score(job({"type": "exact"}), *given)) == [1, 1, 0, 0, 0]
    assert rewards(await score(job({"type": "exact"}), answer("yes", "Yes"))) == [0]
    assert rewards(await score(job({"type": "exact", "ignoreCase": True}), answer("yes", "Yes"))) == [1]


async def test_regex_compares_its_group_with_the_reference() -> None:
    compares = job({"type": "regex", "pattern": r"answer is (?P<answer>\d+)"})
    given = [answer(text) for text in ("answer is 47", "answer is 48", "47", "answer is 9, no, answer is 47")]
    assert rewards(await score(compares, *given)) == [1, 0, 0, 1]
    assert rewards(await score(job({"type": "regex", "pattern": "^[0-9]+$"}), answer("12"), answer("a1"))) == [1, 0]


async def test_reasoning_gym_scores_as_the_task_does() -> None:
    given = [answer(text) for text in ("47", " 47 ", "48", "147", "", "I think <answer>47</answer>")]
    assert rewards(await score(job({"type": "reasoning-gym"}), *given)) == [1, 1, 0, 0.667, 0, 1]


async def test_math_finds_equal_expressions_however_they_are_written() -> None:
    pairs = [
        ("The answer is 0.5", "1/2", 1),
        (r"so $\frac{1}{2}$", "0.5", 1),
        (r"\boxed{\frac{2}{4}}", r"\frac{1}{2}", 1),
        ("1,000", "1000", 1),
        ("It is 12", "13", 0),
        ("no idea", "13", 0),
        ("thus 72.", "Natalia sold 48/2 = 24 clips.\n#### 72", 1),
    ]
    scores = await score(job({"type": "math"}), *(answer(text, reference) for text, reference, _ in pairs))
    assert rewards(scores) == [expected for *_, expected in pairs]


async def test_a_reference_that_math_cannot_read_is_the_users_to_mend() -> None:
    with pytest.raises(RewardError, match=r"scorer math failed for prompt 3 .*'it is unclear'.*mend or remove the row"):
        await score(job({"type": "math"}), answer("4", "it is unclear"))


async def test_an_answer_that_makes_sympy_run_away_counts_as_wrong() -> None:
    async with Scoring(job({"type": "math"}, timeoutSeconds=3)) as scoring:
        scores = await scoring.score([answer("47"), answer("$9^{9^{9^{9^{9}}}}$"), answer("47")])
    assert rewards(scores) == [1, 0, 1]


async def test_parts_are_kept_and_weighted() -> None:
    spec = job(
        {"type": "exact", "weight": 0.8},
        {"type": "regex", "pattern": "^[0-9]+$", "weight": 0.2, "name": "format"},
        correctAt=0.9,
    )
    right, well_formed = await score(spec, answer("47"), answer("48"))
    assert (right.reward, right.correct, right.parts) == (1.0, True, {"exact": 1.0, "format": 1.0})
    assert (well_formed.reward, well_formed.correct, well_formed.parts) == (0.2, False, {"exact": 0.0, "format": 1.0})


async def test_answers_in_circles_are_fined() -> None:
    spec = job({"type": "exact"}, repetitionPenalty=0.5)
    circles, long = FinishReason.REPETITION, FinishReason.LENGTH
    scores = await score(spec, answer("1", reason=circles), answer("1", reason=long), answer("47", reason=circles))
    assert [(each.reward, each.correct) for each in scores] == [(-0.5, False), (0.0, False), (0.5, False)]


async def test_a_function_gets_its_arguments_and_may_print() -> None:
    assert rewards(await score(job(function("share_of_digits", scale=0.5)), answer("12ab"))) == [0.25]


async def test_an_answer_that_hangs_is_named_and_the_others_are_scored() -> None:
    async with Scoring(job(function("hangs_on_loop"), timeoutSeconds=1)) as scoring:
        with pytest.raises(RewardError, match=r"prompt 3 .* answer 'loop'.*no result after 1 s .*twice"):
            await scoring.score([answer("a"), answer("loop"), answer("b")])
        assert rewards(await scoring.score([answer("c")] * 100)) == [1.0] * 100


async def test_a_process_that_dies_is_replaced() -> None:
    async with Scoring(job(function("dies_on_bomb"))) as scoring:
        with pytest.raises(RewardError, match=r"answer 'bomb'.*ended with code 9"):
            await scoring.score([answer("a"), answer("bomb")])
        assert rewards(await scoring.score([answer("a")])) == [1.0]


async def test_a_process_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    given = [answer("a", mark=str(tmp_path / "mark"))] * 3
    assert rewards(await score(job(function("dies_once")), *given)) == [1.0] * 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "answer 'x'.*RuntimeError: no idea what x means; mend the scorer"),
        ("too_large", "it returned 7.*between 0 and 1"),
        ("not_a_number", "it returned nan.*between 0 and 1"),
    ],
)
async def test_a_function_that_misbehaves_is_never_quietly_zero(name: str, words: str) -> None:
    with pytest.raises(RewardError, match=f"scorer function .* failed for prompt 3 .*{words}"):
        await score(job(function(name)), answer("x"))


@pytest.mark.parametrize(
    ("place", "words"),
    [("no_such_module:f", "No module named 'no_such_module'"), ("reward_functions:absent", "no function absent")],
)
async def test_a_function_that_is_not_there_is_told_at_the_start(place: str, words: str) -> None:
    with pytest.raises(RewardError, match=words):
        async with Scoring(job({"type": "function", "function": place})):
            pass


async def test_a_library_scorer_that_always_fails_stops_the_job() -> None:
    # Entries without the metadata that the task's scorer reads: a fault of the program, not of the answers.
    spec = job({"type": "reasoning-gym"})
    gym = spec.data.reasoning_gym
    assert gym is not None
    task = gym.model_copy(update={"task": "complex_arithmetic"})
    broken = spec.model_copy(update={"data": spec.data.model_copy(update={"reasoning_gym": task})})
    async with Scoring(broken) as scoring:
        assert rewards(await scoring.score([answer("1 + 1")])) == [0]
        assert scoring.failures == {"reasoning-gym": 1}
        with pytest.raises(RewardError, match="it is broken"):
            await scoring.score([answer("1 + 1")] * 40)


@pytest.mark.parametrize("scorer", [{"type": "reasoning-gym"}, {"type": "regex", "pattern": "(?P<answer>[0-9]+)"}])
async def test_answers_scored_together_cost_a_fraction_of_one_by_one(scorer: dict[str, Any]) -> None:
    given = [answer("47")] * 256
    together, alone = [], []
    async with Scoring(job(scorer)) as scoring:
        await scoring.score(given)
        for _ in range(3):
            started = time.perf_counter()
            await scoring.score(given)
            together.append(time.perf_counter() - started)
            started = time.perf_counter()
            for each in given:
                await scoring.score([each])
            alone.append(time.perf_counter() - started)
    print(f"{together} s together, {alone} s alone")
    assert min(together) < min(alone) / 3


async def test_scoring_that_is_given_up_leaves_no_replies_behind() -> None:
    async with Scoring(job(function("hangs_on_loop"), timeoutSeconds=60)) as scoring:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await scoring.score([answer("a"), answer("loop")])
        assert rewards(await scoring.score([answer("b")] * 3)) == [1.0] * 3


@contextmanager
def reward_model(replies: list[tuple[int, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """A server that gives one reply after the other, the last one for ever; its address and what it was sent."""
    requests: list[Any] = []
    in_turn = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with in_turn:  # batches come at the same time
                requests.append(request)
                status, body = replies.pop(0) if len(replies) > 1 else replies[0]
            body = {"rewards": [0.5] * len(request["samples"])} if body is None else body
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/score", requests
        server.shutdown()


async def test_a_reward_model_gets_batches_and_is_tried_again_when_overloaded() -> None:
    with reward_model([(503, {}), (200, None)]) as (url, requests):
        scores = await score(job({"type": "http", "url": url, "batchSize": 2}), *[answer(str(n)) for n in range(5)])
    assert rewards(scores) == [0.5] * 5
    sizes = [len(request["samples"]) for request in requests]
    assert sorted(sizes) == sorted([2, 2, 1, sizes[0]])  # three batches, the first that came twice
    assert {"prompt": "Calculate 32 + 15.", "response": "4", "answer": "47"} in [
        sample for request in requests for sample in request["samples"]
    ]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((400, {"detail": "what?"}), "answered 400.*what"),
        ((200, {"scores": [1]}), "must answer .*rewards.*found .*scores"),
        ((200, {"rewards": [1, 1]}), "found .*for 1 samples"),
        ((200, {"rewards": ["high"]}), "found .*high"),
        ((200, {"rewards": [3.5]}), "it returned 3.5"),
        ((500, {}), "cannot be reached after 4 attempts"),
    ],
)
async def test_a_reward_model_that_misbehaves_is_named(reply: tuple[int, Any], words: str) -> None:
    with reward_model([reply]) as (url, _), pytest.raises(RewardError, match=words):
        await score(job({"type": "http", "url": url}), answer("4"))
