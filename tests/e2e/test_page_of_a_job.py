"""The page of a job that really runs: what its engines, answers and pods look like in it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

JOB = Path(__file__).parents[2] / "bench" / "chaos" / "job.yaml"
SECONDS = 240


def tandem(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"TANDEM_HOME": str(home)}
    command = [sys.executable, "-m", "tandem_local", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """Asks the master of a running job, at the address that `tandem ui` prints."""
    settings = ("--name", "shown", "--set", "spec.iterations=2000", "--detach")
    started = tandem(tmp_path, "run", str(JOB), *settings)
    assert started.returncode == 0, started.stderr
    try:
        address, token = _find_page(tmp_path)
        yield httpx.Client(timeout=SECONDS, base_url=address, headers={"Authorization": f"Bearer {token}"})
    finally:
        tandem(tmp_path, "stop", "shown", "--now")


def _find_page(home: Path) -> tuple[str, str]:
    """Address and token, as soon as the master is ready."""
    deadline = time.monotonic() + SECONDS
    while (told := tandem(home, "ui", "shown", "--no-browser")).returncode != 0:
        assert "is not ready" in told.stderr
        assert time.monotonic() < deadline, told.stderr
        time.sleep(1)
    address, _, token = told.stdout.strip().partition("/ui/#token=")
    return address, token


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_running_job_shows_its_pods_versions_and_answers(client: httpx.Client) -> None:
    deadline = time.monotonic() + SECONDS
    while (overview := _ask(client, "overview"))["last_iteration"] < 5:
        assert time.monotonic() < deadline, overview
        time.sleep(0.5)
    assert overview["live"]
    assert {engine["kind"] for engine in overview["engines"]} == {"hybrid", "inference"}

    window = _ask(client, "timeline", first=1, last=4)
    names = set(window["timeline"]["names"])
    assert {"train", "publish", "update", "rollout"} <= names
    served = window["versions"]
    assert len(served["pods"]) == 2
    for lane in range(2):
        versions = [bar["version"] for bar in served["bars"] if bar["lane"] == lane]
        assert versions == sorted(versions)
        assert len(set(versions)) >= 3

    page = _ask(client, "answers", iteration_to=4, limit=200)
    assert page["matching"] >= 200
    for line in page["answers"][::20]:
        answer = _ask(client, f"answers/{line['id']}")
        pieces = answer["pieces"]
        assert sum(piece["tokens"] for piece in pieces) == answer["tokens"]
        assert sum(piece["characters"] for piece in pieces) == len(answer["text"])
        assert (pieces[0]["version"], pieces[-1]["version"]) == (answer["first_version"], answer["last_version"])
        assert pieces[-1]["finish_reason"] == answer["finish_reason"]

    reward = _ask(client, "curves")["figures"][0]
    assert reward["title"] == "Reward"
    assert len(reward["lines"][0]["values"]) >= 5


def _ask(client: httpx.Client, path: str, **parameters: int) -> Any:
    answer = client.get(f"/v1/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()
