"""What is said about a job, on a real API server; kubelet's part is written by the test."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from tandem_core.coordination.records import Control, PhaseRecord, Summary
from tandem_core.phases import Phase
from tandem_operator.resources import EVENT, POD, RLJOB, Kind

from .job_specs import SMALL
from .watched_job import WatchedJob, wait_until

type NewJob = Callable[[str], WatchedJob]


def running_phase(phase: Phase = Phase.ROLLOUT, **changes: Any) -> PhaseRecord:
    return PhaseRecord(iteration=3, phase=phase, version=2, token=1, started_at=0.0, **changes)


def summary(phase: Phase = Phase.ROLLOUT, **changes: Any) -> Summary:
    return Summary(phase=phase, iteration=3, iterations=5, version=2, samples=64, reward_average=0.5, **changes)


def start_pods(job: WatchedJob) -> None:
    """Pods become ready, as kubelet would tell it."""
    job.wait_for_pods()
    ready = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
    for component in ("hybrid", "master"):
        job.bind_pods(component)
        job.end_pods(component, "Running", conditions=ready)


def pods_wait(job: WatchedJob) -> bool:
    """What the job's master is told."""
    control = job.read("control", Control)
    assert control is not None
    return control.pods_wait


@pytest.fixture
def job(new_job: NewJob) -> WatchedJob:
    return new_job("told").create(SMALL)


def test_a_pod_that_cannot_be_scheduled_is_told_within_seconds(job: WatchedJob) -> None:
    began = time.monotonic()
    message = job.wait_for("Progressing", "False", "Unschedulable")["message"]
    assert time.monotonic() - began < 10
    assert "no nodes available" in message
    assert job.status()["message"] == message
    wait_until(lambda: pods_wait(job), "the master is told, whose deadlines do not run now")
    start_pods(job)
    wait_until(lambda: not pods_wait(job), "the master is told that pods have their place")


def test_a_phase_that_lasts_is_told_and_is_no_problem_but_what_the_master_calls_one_is(job: WatchedJob) -> None:
    start_pods(job)
    job.report("phase", running_phase())
    job.report("summary", summary(message="35 % of 1,024 answers are finished"))
    wait_until(lambda: job.status().get("message") == "35 % of 1,024 answers are finished", "how far it is")
    job.wait_for("Degraded", "False", "AsExpected")
    job.report("summary", summary(message="40 %", problem="no room on the disk"))
    assert job.wait_for("Degraded", "True", "MemberProblem")["message"] == "no room on the disk"
    assert job.status()["message"] == "no room on the disk"


def test_what_the_master_reports_is_in_the_status(job: WatchedJob) -> None:
    start_pods(job)
    job.report("phase", running_phase())
    job.report("summary", summary(train_to_infer_seconds=1.5))
    wait_until(lambda: job.status().get("phase") == "Rollout", "the phase")
    status = job.status()
    expected = {"iteration": 3, "weightVersion": 2, "samples": 64, "reward": 0.5, "trainToInferSeconds": 1.5}
    assert {name: status.get(name) for name in expected} == expected
    assert status["hybrid"] == "1/1"
    ready = job.wait_for("Ready", "True", "Running")
    assert ready["observedGeneration"] == 1
    job.wait_for("Progressing", "True", "Running")


def test_a_status_is_written_at_most_once_a_second(job: WatchedJob) -> None:
    start_pods(job)
    job.report("phase", running_phase())
    wait_until(lambda: job.status().get("phase") == "Rollout", "the phase")
    versions = set()
    end = time.monotonic() + 4
    while time.monotonic() < end:
        job.report("summary", summary(tokens_per_second=time.monotonic()))
        found = job.get()
        assert found is not None
        versions.add(found["metadata"]["resourceVersion"])
    assert 2 <= len(versions) <= 6


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not there"}}}, "ImagePullFailed"),
        ({"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "x"}}}, "ContainerConfigError"),
        (
            {
                "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "NOW"}},
            },
            "OutOfMemory",
        ),
    ],
)
def test_what_is_wrong_with_a_container_is_told(job: WatchedJob, container: dict[str, Any], reason: str) -> None:
    start_pods(job)
    last = container.get("lastState", {}).get("terminated")
    if last:
        last["finishedAt"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = {"name": "master", "image": "x", "imageID": "", "ready": False, "restartCount": 1, **container}
    pod = job.pods("master")[0]["metadata"]["name"]
    job.edit({"status": {"containerStatuses": [text]}}, POD, pod, "status")
    assert pod in job.wait_for("Degraded", "True", reason)["message"]


def test_a_quota_that_is_too_small_is_told_and_mended(new_job: NewJob) -> None:
    job = new_job("poor")
    quota = Kind("v1", "ResourceQuota", "resourcequotas")
    path = quota.path(job.namespace)
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}
    job.api.request("POST", path, body)
    wait_until(lambda: (job.get(quota, "q") or {}).get("status", {}).get("used"), "the quota counts")
    job.create(SMALL)
    assert "exceeded quota" in job.wait_for("Progressing", "False", "QuotaExceeded")["message"]
    job.delete(quota, "q")
    job.wait_for("Progressing", "False", "Unschedulable")


def test_a_claim_that_a_quota_forbids_is_told(new_job: NewJob) -> None:
    job = new_job("full")
    quota = Kind("v1", "ResourceQuota", "resourcequotas")
    hard = {"persistentvolumeclaims": "0"}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}}
    job.api.request("POST", quota.path(job.namespace), body)
    wait_until(lambda: (job.get(quota, "q") or {}).get("status", {}).get("used"), "the quota counts")
    job.create(SMALL)
    assert "PersistentVolumeClaim" in job.wait_for("Progressing", "False", "QuotaExceeded")["message"]
    assert job.jobs() == {}


def test_pods_that_fail_too_often_end_the_job(new_job: NewJob) -> None:
    job = new_job("frail").create({**SMALL, "backoffLimit": 0})
    start_pods(job)
    ended = {"exitCode": 1, "reason": "Error", "message": "boom", "finishedAt": "2026-01-01T00:00:00Z"}
    text = {"name": "master", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    job.end_pods("master", "Failed", containerStatuses=[{**text, "state": {"terminated": ended}}])
    failed = job.wait_for("Failed", "True", "BackoffLimitExceeded")
    assert "boom" in failed["message"]
    assert job.status()["phase"] == "Failed"
    assert job.status()["failures"] == 1


def test_a_program_that_refuses_its_input_ends_the_job_at_once(job: WatchedJob) -> None:
    start_pods(job)
    ended = {"exitCode": 3, "reason": "Error", "message": "no such dataset", "finishedAt": "2026-01-01T00:00:00Z"}
    text = {"name": "master", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    job.end_pods("master", "Failed", containerStatuses=[{**text, "state": {"terminated": ended}}])
    assert "no such dataset" in job.wait_for("Failed", "True", "InvalidSpec")["message"]


def test_events_tell_of_turns_and_not_of_ticks(job: WatchedJob) -> None:
    start_pods(job)
    job.report("phase", running_phase())
    for samples in range(3):
        job.report("summary", summary(tokens_per_second=float(samples + 1)))
        wait_until(lambda n=samples: job.status().get("tokensPerSecond") == n + 1, "the tick")  # type: ignore[misc]
    job.wait_for("Progressing", "True", "Running")
    query = f"?fieldSelector=involvedObject.kind={RLJOB.name},involvedObject.name={job.name}"
    events = job.api.request("GET", EVENT.path(job.namespace) + query)["items"]
    assert {"Starting", "Running"} <= {event["reason"] for event in events}
    assert len(events) <= 4
