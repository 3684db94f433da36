"""Two operators: one works, the other takes over, and a deposed one does not write."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tandem_core.coordination.records import Control, PhaseRecord
from tandem_core.job import RLJobStatus
from tandem_core.phases import Phase
from tandem_operator.resources import Kind

from tools.chart import NAMESPACE

from .job_specs import SMALL
from .operator_process import OperatorProgram
from .rljob_api import Api, Object
from .test_operator_status import running_phase, start_pods, summary
from .watched_job import WatchedJob, wait_until


def test_the_other_operator_takes_over_and_a_deposed_one_does_not_write(
    crd: Path, namespace: str, operator_program: OperatorProgram, tmp_path: Path
) -> None:
    flags = [f"--namespaces={namespace}", f"--lease-name={namespace}"]
    logs = {name: tmp_path / f"{name}.log" for name in ("first", "second", "third")}

    def leads(name: str) -> Callable[[], bool]:
        return lambda: "this is the active operator" in logs[name].read_text()

    def run(name: str):  # type: ignore[no-untyped-def]
        return operator_program.run(logs[name], f"--identity={name}", *flags)

    with Api(crd, namespace) as api, run("first") as first:
        job = WatchedJob(api, namespace, "kept", operator_program.etcd)
        wait_until(leads("first"), "the first one leads")
        with run("second") as second:
            wait_until(lambda: "waiting for the Lease" in logs["second"].read_text(), "the second one waits")
            first.kill()
            began = time.monotonic()
            job.create(SMALL)
            job.wait_for_pods()
            assert time.monotonic() - began < 20, "seconds until the other one has taken over and worked"
            with run("third"):
                wait_until(lambda: "waiting for the Lease" in logs["third"].read_text(), "the third one waits")
                second.send_signal(signal.SIGSTOP)
                wait_until(leads("third"), "the third one leads")
                lease = api.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{namespace}")
                assert lease["spec"]["holderIdentity"] == "third"
                second.send_signal(signal.SIGCONT)
                assert second.wait(timeout=30) == 1
                told = [json.loads(line) for line in logs["second"].read_text().splitlines() if line.startswith("{")]
                assert "does not hold the Lease" in str(told[-1])
                assert RLJobStatus.model_validate(job.status()).phase == "Pending"


def contents(objects: dict[tuple[Kind, str], Object]) -> dict[tuple[Kind, str], Any]:
    """Which they are and what they ask for; others may write their status and annotations."""
    return {key: (item["metadata"]["uid"], item.get("spec"), item.get("data")) for key, item in objects.items()}


@pytest.mark.long
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.DONE, Phase.FAILED)])
def test_a_killed_operator_is_replaced_in_every_phase_and_the_job_does_not_notice(
    crd: Path, namespace: str, operator_program: OperatorProgram, tmp_path: Path, phase: Phase
) -> None:
    flags = [f"--namespaces={namespace}", f"--lease-name={namespace}"]
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with Api(crd, namespace) as api, operator_program.run(logs[0], *flags) as first:
        job = WatchedJob(api, namespace, "kept", operator_program.etcd).create(SMALL)
        start_pods(job)
        job.report("phase", running_phase(phase))
        wait_until(lambda: job.status().get("phase") == phase, f"the operator has seen {phase}")
        with operator_program.run(logs[1], *flags):
            wait_until(lambda: "waiting for the Lease" in logs[1].read_text(), "the second one waits")
            owned, record, control = job.objects(), job.read("phase", PhaseRecord), job.read("control", Control)
            first.kill()
            began = time.monotonic()
            wait_until(lambda: "this is the active operator" in logs[1].read_text(), "the second one leads")
            assert time.monotonic() - began < 20, "seconds until the other one has taken over"
            job.report("summary", summary(phase, tokens_per_second=7.0))
            wait_until(lambda: job.status().get("tokensPerSecond") == 7, "the second one works")
            assert contents(owned) == contents(job.objects())
            assert job.read("phase", PhaseRecord) == record
            assert job.read("control", Control) == control


def test_an_operator_that_is_told_to_end_lets_the_other_take_over_at_once(
    crd: Path, namespace: str, operator_program: OperatorProgram, tmp_path: Path
) -> None:
    flags = [f"--namespaces={namespace}", f"--lease-name={namespace}"]
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with operator_program.run(logs[0], *flags, "--resync-seconds=1") as first:
        wait_until(lambda: "this is the active operator" in logs[0].read_text(), "the first one leads")
        time.sleep(2)
        assert first.poll() is None, "it compares its cache with a namespace in which there is nothing"
        with operator_program.run(logs[1], *flags):
            wait_until(lambda: "waiting for the Lease" in logs[1].read_text(), "the second one waits")
            first.terminate()
            assert first.wait(timeout=20) == 0
            wait_until(lambda: "this is the active operator" in logs[1].read_text(), "the second one leads", 5)
