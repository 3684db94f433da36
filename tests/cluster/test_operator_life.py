"""Suspending, resuming, ending and deleting, on a real API server; master and kubelet are played by the test."""

import time
from collections.abc import Callable

import pytest
from tandem_core.coordination.records import Control
from tandem_core.phases import Phase
from tandem_operator.resources import DEPLOYMENT, FINALIZER, POD

from .job_specs import SMALL
from .test_operator_status import running_phase, start_pods, summary
from .watched_job import WatchedJob, wait_until

type NewJob = Callable[[str], WatchedJob]


@pytest.fixture
def job(new_job: NewJob) -> WatchedJob:
    """A job whose master is at work."""
    job = new_job("alive").create({**SMALL, "elastic": {"min": 1, "max": 1}})
    start_pods(job)
    job.report("phase", running_phase())
    job.report("summary", summary())
    wait_until(lambda: job.status().get("iteration") == 3, "the iteration")
    return job


def stop_as_asked(job: WatchedJob, reason: str) -> None:
    """The master saves and ends, as do all pods."""
    asked = wait_until(
        lambda: control if (control := job.read("control", Control)) and control.stop else None,
        "a wish to stop",
    )
    assert asked.reason == reason
    job.report("phase", running_phase(Phase.DONE, stopped=True, reason=f"stopped: {reason}"))
    job.end_pods("hybrid")
    job.end_pods("master")


def end(job: WatchedJob) -> None:
    """The last iteration is done and all pods have ended."""
    job.report("phase", running_phase(Phase.DONE))
    job.report("summary", summary(Phase.DONE))
    job.end_pods("hybrid")
    job.end_pods("master")
    job.wait_for("Complete", "True", "IterationsDone")


def test_suspend_lets_the_job_save_and_gives_everything_back_and_resume_begins_anew(job: WatchedJob) -> None:
    job.edit({"spec": {"suspend": True}})
    stop_as_asked(job, "suspended")
    job.wait_for("Suspended", "True", "Suspended")
    assert job.jobs() == {}
    assert job.objects((POD,)) == {}
    assert job.status()["phase"] == "Suspended"
    assert job.status()["iteration"] == 3
    job.edit({"spec": {"suspend": False}})
    job.wait_for("Suspended", "False", "NotSuspended")
    job.wait_for_pods()
    assert job.read("phase", type(running_phase())) is None, "the records of the stopped job are gone"
    assert job.status()["iteration"] == 3, "what was reached is told until there is news"
    control = wait_until(lambda: job.read("control", Control), "the control record")
    assert not control.stop


def test_a_job_that_does_not_stop_is_suspended_all_the_same(job: WatchedJob) -> None:
    job.edit({"metadata": {"annotations": {"tandem.dev/grace-period-seconds": "1"}}, "spec": {"suspend": True}})
    wait_until(lambda: not job.let_pods_go() and job.condition("Suspended")["status"] == "True", "it is suspended")
    job.edit({"spec": {"suspend": False}})
    job.wait_for_pods()
    job.wait_for("Suspended", "False", "NotSuspended")


def test_a_job_that_begins_suspended_makes_no_pods(new_job: NewJob) -> None:
    job = new_job("asleep").create({**SMALL, "suspend": True})
    job.wait_for("Suspended", "True")
    assert job.jobs() == {}
    assert len(job.objects()) > 6


def test_a_job_that_is_done_is_complete_and_keeps_no_inference_pods(job: WatchedJob) -> None:
    end(job)
    status = job.status()
    assert status["phase"] == "Done"
    assert status["completionTime"]
    name = "alive-inference"
    wait_until(lambda: job.objects((DEPLOYMENT,))[DEPLOYMENT, name]["spec"]["replicas"] == 0, "no inference pods")
    job.delete(kind=next(iter(job.objects()))[0], name=next(iter(job.objects()))[1])
    time.sleep(1)
    job.wait_for("Complete", "True")


def test_a_job_goes_when_its_time_after_the_end_is_over(job: WatchedJob) -> None:
    job.edit({"spec": {"ttlSecondsAfterFinished": 1}})
    end(job)
    wait_until(lambda: job.get() is None, "the job is gone")
    wait_until(lambda: not job.objects(), "its objects are gone")


def test_a_deleted_job_saves_and_leaves_nothing(job: WatchedJob) -> None:
    found = job.get()
    assert found is not None
    assert FINALIZER in found["metadata"]["finalizers"]
    uid = found["metadata"]["uid"]
    assert job.keys_in_etcd(uid) > 0
    job.delete()
    stop_as_asked(job, "deleted")
    wait_until(lambda: job.get() is None, "the job is gone")
    wait_until(lambda: not job.objects() and not job.objects((POD,)), "nothing of it is there")
    assert job.keys_in_etcd(uid) == 0


def test_a_deleted_job_that_does_not_stop_goes_after_its_grace_period(job: WatchedJob) -> None:
    job.edit({"metadata": {"annotations": {"tandem.dev/grace-period-seconds": "0"}}})
    job.delete()
    wait_until(lambda: not job.let_pods_go() and job.get() is None, "the job is gone")


def test_a_deleted_job_whose_specification_is_bad_goes(new_job: NewJob) -> None:
    job = new_job("bad").create({**SMALL, "pods": {"hybrid": {"spec": {"containers": [{"image": "x"}]}}}})
    job.wait_for("Accepted", "False")
    job.delete()
    wait_until(lambda: job.get() is None, "the job is gone")


def test_a_job_may_be_made_anew_under_the_name_of_one_that_goes(job: WatchedJob) -> None:
    job.edit({"metadata": {"annotations": {"tandem.dev/grace-period-seconds": "0"}}})
    before = job.get()
    assert before is not None
    job.delete()
    wait_until(lambda: not job.let_pods_go() and job.get() is None, "the job is gone")
    job.create(SMALL)
    job.wait_for_pods()
    after = job.get()
    assert after is not None
    for item in wait_until(lambda: job.objects(), "objects").values():
        assert [owner["uid"] for owner in item["metadata"]["ownerReferences"]] == [after["metadata"]["uid"]]
