"""What the job's page reads from the master's API, and who may."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from tandem_core.job import RLJob, parse_job
from tandem_rollout.api import Presence, build_api
from tandem_rollout.page.routes import STATIC
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url

from .many_answers import ENGINES, GROUP_SIZE, GROUPS_AN_ITERATION, add_history, fill
from .served_page import JOB, TOKEN, build_presence

ITERATIONS = 40
ANSWERS = ITERATIONS * GROUP_SIZE * GROUPS_AN_ITERATION
DATA = ["overview", "job", "curves", "timeline?first=1&last=2", "answers", "answers/65536"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "replay.sqlite"

    async def fill_job() -> None:
        await fill(sqlite_url(path), "sums", ANSWERS)
        async with ReplayBuffer(sqlite_url(path), "sums") as buffer:
            await add_history(buffer, ITERATIONS, 1_700_000_000.0)

    asyncio.run(fill_job())
    return path


def client_of(presence: Presence, token: str = TOKEN) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(build_api(presence))
    return httpx.AsyncClient(transport=transport, base_url="http://master", headers=headers)


@pytest_asyncio.fixture
async def buffer(file: Path) -> AsyncIterator[ReplayBuffer]:
    async with ReplayBuffer(sqlite_url(file), "sums") as opened:
        yield opened


@pytest_asyncio.fixture
async def client(buffer: ReplayBuffer) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(build_presence(buffer)) as client:
        yield client


@pytest.mark.parametrize("token", ["", "another"])
@pytest.mark.parametrize("path", DATA)
async def test_data_want_the_jobs_token(buffer: ReplayBuffer, path: str, token: str) -> None:
    async with client_of(build_presence(buffer), token) as stranger:
        assert (await stranger.get(f"/v1/{path}")).status_code == 401
    async with client_of(build_presence(buffer)) as friend:
        answer = await friend.get(f"/v1/{path}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert (await friend.post(f"/v1/{path}")).status_code == 405  # nothing can be changed


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir()))
async def test_the_pages_files_are_for_everybody_and_may_do_little(buffer: ReplayBuffer, name: str) -> None:
    async with client_of(build_presence(buffer), "") as stranger:
        answer = await stranger.get(f"/ui/{name}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(|style=["']""", answer.text)


async def test_the_page_is_found_from_the_masters_address(buffer: ReplayBuffer) -> None:
    async with client_of(build_presence(buffer), "") as stranger:
        for path in ("/", "/ui", "/ui/"):
            answer = await stranger.get(path, follow_redirects=True)
            assert answer.url.path == "/ui/"
            assert "<h1" in answer.text
        assert (await stranger.get("/ui/../api.py")).status_code == 404
        assert (await stranger.get("/ui/%2e%2e/routes.py")).status_code == 404


async def test_the_overview_tells_how_the_job_is_and_that_there_is_something_new(client: httpx.AsyncClient) -> None:
    overview = (await client.get("/v1/overview")).json()
    assert (overview["job"], overview["live"], overview["iterations"]) == ("sums", True, 600)
    assert (overview["first_iteration"], overview["last_iteration"]) == (0, ITERATIONS)
    assert [(engine["pod"], engine["state"], engine["behind"]) for engine in overview["engines"]] == [
        (ENGINES[0], "serving", 0),
        (ENGINES[1], "starting", 0),
        (ENGINES[2], "serving", 2),
    ]
    assert time.time() - overview["changed_at"] < 600


async def test_curves_are_smoothed_as_they_are_asked_for(client: httpx.AsyncClient) -> None:
    rough = (await client.get("/v1/curves", params={"smoothing": 0})).json()
    smooth = (await client.get("/v1/curves", params={"smoothing": 0.95})).json()
    assert rough["iterations"] == list(range(1, ITERATIONS + 1))
    reward, smoothed = rough["figures"][0], smooth["figures"][0]
    assert [line["label"] for line in reward["lines"]] == ["reward"]
    assert [line["label"] for line in smoothed["lines"]] == ["reward", "moving average"]
    assert smoothed["lines"][0]["values"] == reward["lines"][0]["values"]
    steps = [_roughness(line["values"]) for line in smoothed["lines"]]
    assert steps[1] < steps[0] / 5
    assert "Answer length" in [figure["title"] for figure in rough["figures"]]
    assert {row["phase"] for row in rough["phases"]["rows"]} >= {"Warmup", "Rollout", "Training"}


def _roughness(values: list[float]) -> float:
    return sum(abs(second - first) for first, second in pairwise(values))


async def test_a_window_of_the_timeline_has_pods_and_versions_of_the_same_time(client: httpx.AsyncClient) -> None:
    window = (await client.get("/v1/timeline", params={"first": 31, "last": 33})).json()
    timeline, versions = window["timeline"], window["versions"]
    assert {bar["iteration"] for bar in timeline["bars"]} == {31, 32, 33}
    assert sorted({lane["pod"] for lane in timeline["lanes"]}) == sorted(ENGINES)
    end = max(bar["end"] for bar in timeline["bars"])
    assert all(0 <= bar["start"] < bar["end"] <= end for bar in versions["bars"])
    assert {bar["version"] for bar in versions["bars"]} == {30, 31, 32}
    assert versions["pods"] == sorted(ENGINES)


async def test_answers_are_filtered_and_paged(client: httpx.AsyncClient) -> None:
    given = {"iteration_from": 2, "iteration_to": 3, "reward_from": 0.8, "order": "longest", "limit": 5}
    first = (await client.get("/v1/answers", params=given)).json()
    second = (await client.get("/v1/answers", params=given | {"after": first["next"]})).json()
    lines = [*first["answers"], *second["answers"]]
    assert len({line["id"] for line in lines}) == 10
    assert all(line["iteration"] in (2, 3) and line["reward"] >= 0.8 for line in lines)
    assert [line["tokens"] for line in lines] == sorted((line["tokens"] for line in lines), reverse=True)
    full = (await client.get(f"/v1/answers/{lines[0]['id']}")).json()
    assert full["text"].startswith(lines[0]["text"])
    assert (await client.get("/v1/answers/1")).status_code == 404


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("answers?after=5", "take `next` of the page before"),
        ("answers?order=nicest", "newest"),
        ("answers?iteration=5", "iteration"),
        ("timeline?first=3&last=2", "first must not be after last"),
        ("timeline?first=1&last=500", "200 iterations"),
        ("curves?smoothing=1", "less than 1"),
    ],
)
async def test_a_question_that_makes_no_sense_is_answered_with_what_to_ask(
    client: httpx.AsyncClient, path: str, said: str
) -> None:
    answer = await client.get(f"/v1/{path}")
    assert answer.status_code == 422
    assert said in json.dumps(answer.json())


async def test_the_job_is_told_as_it_was_resolved(client: httpx.AsyncClient) -> None:
    told: RLJob = parse_job((await client.get("/v1/job")).text)
    assert told == JOB


async def test_a_master_that_starts_says_so() -> None:
    async with client_of(Presence(TOKEN, JOB)) as client:
        answer = await client.get("/v1/overview")
        assert answer.status_code == 503
        assert "starting" in answer.json()["detail"]
