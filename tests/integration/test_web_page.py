"""`tandem ui` on one machine, of a run that has ended."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tandem_core.job import dump_job
from tandem_local.run_directory import RunDirectory
from tandem_local.run_state import RunState, RunStatus
from tandem_rollout.storage.replay_buffer import sqlite_url

from .many_answers import fill
from .served_page import JOB

ANSWERS = 400
SECONDS = 60


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of the job `sums` that ended before it recorded anything, in the home `tmp_path`."""
    directory = RunDirectory(tmp_path / "runs" / "sums")
    directory.make()
    uid = "b6f2c1de-0000"
    job = JOB.model_copy(update={"metadata": JOB.metadata.model_copy(update={"uid": uid})})
    directory.job_file.write_text(dump_job(job))
    directory.token_file.write_text("the token of its end")
    directory.write_state(
        RunState(
            job="sums",
            uid=uid,
            run_id="00000000",
            status=RunStatus.SUCCEEDED,
            working_directory=tmp_path,
            address_block="127.1.1.0/24",
            started_at=1.0,
            ended_at=2.0,
        )
    )
    return directory


def call(home: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tandem_local", "ui", *arguments],
        env=os.environ | {"TANDEM_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def served(run: RunDirectory, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """`tandem ui` of the run, with answers recorded."""
    claim = run.claim("sums-data")
    claim.mkdir(parents=True)
    asyncio.run(fill(sqlite_url(claim / "replay.sqlite"), "b6f2c1de-0000", ANSWERS))
    process = call(tmp_path, "sums", "--no-browser")
    yield process
    process.kill()
    process.wait(SECONDS)


def test_the_page_of_a_run_that_has_ended_is_served_until_ctrl_c(served: "subprocess.Popen[str]") -> None:
    assert served.stdout is not None
    address, _, token = served.stdout.readline().strip().partition("/ui/#token=")
    with httpx.Client(base_url=address, timeout=SECONDS) as client:
        assert "<h1" in client.get("/ui/").text
        assert client.get("/v1/answers", headers={"Authorization": "Bearer the token of its end"}).status_code == 401
        client.headers["Authorization"] = f"Bearer {token}"
        overview = client.get("/v1/overview").json()
        assert (overview["job"], overview["live"], overview["engines"]) == ("sums", False, [])
        assert client.get("/v1/answers").json()["matching"] == ANSWERS
    served.send_signal(signal.SIGINT)
    _, errors = served.communicate(timeout=SECONDS)
    assert (served.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sums",), "it has recorded nothing"),
        (("nothing",), "kubectl tandem ui nothing"),
        (("--namespace", "team-a"), "Name it: tandem ui JOB"),
    ],
)
def test_a_page_that_is_not_there_is_told_with_what_to_do(
    run: RunDirectory, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    process = call(tmp_path, *arguments)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert said in errors
    assert "Traceback" not in errors
