"""Which stage a job is in and what is done then: a table over what was observed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tandem_core.coordination.records import Control, PhaseRecord
from tandem_core.job import Condition, RLJob, RLJobStatus, parse_job
from tandem_core.job.conditions import Reason
from tandem_core.job.status import WaitingPhase
from tandem_core.phases import Phase
from tandem_operator.build import BuildSettings, Component, build_objects
from tandem_operator.observe.children import Child
from tandem_operator.observe.observed import Observed
from tandem_operator.observe.pods import Pod
from tandem_operator.observe.records import Records
from tandem_operator.plan.conditions import plan_conditions
from tandem_operator.plan.failures import Trouble
from tandem_operator.plan.job import Plan, plan_job
from tandem_operator.plan.pace import plan_pace
from tandem_operator.plan.stage import Stage, lacks_last_words
from tandem_operator.plan.status import plan_status
from tandem_operator.plan.turns import find_turns
from tandem_operator.resources import FINALIZER, JOB, JobKey, ObjectKey, object_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GRACE = 60.0
TEXT = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: job, namespace: ns, uid: u1}
spec:
  iterations: 2
  model: {scratch: {tokenizer: {tokens: ["0", "1", "+"]}}}
  data: {dataset: {path: /prompts.jsonl}}
  rewards: {scorers: [{type: exact}]}
  hybrid: {device: cpu, inference: {release: none, kvCacheBytes: 67108864}}
"""
JOB_SPEC = parse_job(TEXT)


def build(job: RLJob, replicas: int | None) -> list[dict[str, Any]]:
    return build_objects(job, BuildSettings(etcd_endpoints="e:2379", token="t"), inference_replicas=replicas)


def child(component: str, *conditions: str, reason: str = "") -> Child:
    holds = {name: ("True", reason, "why") for name in conditions}
    return Child(ObjectKey(JOB, f"job-{component}"), f"uid-{component}", 1, "u1", "f", conditions=holds)


def pod(component: str, *, ended: bool = False) -> Pod:
    return Pod(
        f"job-{component}-0", component, 1, NOW, component, ready=not ended, ended=ended, failed=False, deleting=False
    )


def phase(name: Phase, *, stopped: bool = False, reason: str = "") -> PhaseRecord:
    return PhaseRecord(iteration=1, phase=name, version=1, token=1, started_at=0.0, stopped=stopped, reason=reason)


BOTH = {item.key: item for item in (child("hybrid"), child("master"))}
PODS = (pod("hybrid"), pod("master"))
NEW = Observed(
    key=JobKey("ns", "job"),
    uid="u1",
    generation=1,
    created_at=NOW,
    deleted_at=None,
    finalizers=(FINALIZER,),
    annotations={},
    job=JOB_SPEC,
    problem="",
    status=RLJobStatus(),
    records=Records(),
)
ASKED = Control(iterations=2, deadlines=JOB_SPEC.spec.deadlines)
RUNNING = replace(NEW, children=BOTH, pods=PODS, records=Records(phase=phase(Phase.ROLLOUT), control=ASKED))
SUSPENDED_SPEC = JOB_SPEC.model_copy(update={"spec": JOB_SPEC.spec.model_copy(update={"suspend": True})})
TO_SUSPEND = replace(RUNNING, job=SUSPENDED_SPEC)
STOPPED = Records(phase=phase(Phase.DONE, stopped=True), control=Control(stop=True))
DELETED = replace(RUNNING, deleted_at=NOW - timedelta(seconds=5))


def plan(observed: Observed) -> Plan:
    return plan_job(observed, build, GRACE, NOW)


@pytest.mark.parametrize(
    ("observed", "stage"),
    [
        (NEW, Stage.RUNNING),
        (RUNNING, Stage.RUNNING),
        (replace(RUNNING, records=Records()), Stage.RESUMING),  # etcd has forgotten it
        (replace(RUNNING, records=None, etcd_problem="away"), Stage.RUNNING),
        (replace(NEW, job=None, problem="bad"), Stage.INVALID),
        (TO_SUSPEND, Stage.SUSPENDING),
        (replace(TO_SUSPEND, records=None), Stage.SUSPENDING),
        (replace(TO_SUSPEND, records=Records()), Stage.SUSPENDED),  # nothing has begun that could be saved
        (replace(TO_SUSPEND, pods=(), records=STOPPED), Stage.SUSPENDED),
        (
            replace(TO_SUSPEND, status=RLJobStatus(stop_requested_time=NOW - timedelta(seconds=GRACE))),
            Stage.SUSPENDED,
        ),
        (replace(RUNNING, records=STOPPED), Stage.RESUMING),
        (replace(NEW, records=STOPPED), Stage.RESUMING),
        (replace(NEW, records=Records(phase=phase(Phase.ROLLOUT), control=Control(stop=True))), Stage.RESUMING),
        (replace(NEW, records=None, status=RLJobStatus(phase=WaitingPhase.SUSPENDED)), Stage.RESUMING),
        (replace(RUNNING, records=Records(phase=phase(Phase.FAILED, reason="no room"))), Stage.FINISHED),
        (DELETED, Stage.STOPPING),
        (replace(DELETED, deleted_at=NOW - timedelta(seconds=GRACE)), Stage.REMOVING),
        (replace(DELETED, pods=()), Stage.REMOVING),
        (replace(DELETED, annotations={"tandem.dev/grace-period-seconds": "0"}), Stage.REMOVING),
        (replace(DELETED, job=None, problem="bad"), Stage.STOPPING),
    ],
)
def test_the_stage_follows_from_what_is_there(observed: Observed, stage: Stage) -> None:
    assert plan(observed).stage is stage


def test_a_new_job_is_protected_and_gets_all_objects() -> None:
    made = plan(replace(NEW, finalizers=()))
    assert made.protect
    assert made.give_access
    assert {object_key(item) for item in made.apply} >= BOTH.keys()
    assert made.control == ASKED


@pytest.mark.parametrize(
    ("children", "makes_master"),
    [
        ({}, False),
        ({child("hybrid").key: replace(child("hybrid"), held=True)}, False),
        ({child("hybrid").key: child("hybrid")}, True),
        ({**BOTH, child("hybrid").key: replace(child("hybrid"), held=True)}, True),  # it is there: it waits
    ],
)
def test_the_master_waits_for_kueue_as_the_hybrid_pods_do(children: dict[ObjectKey, Child], makes_master: bool) -> None:
    scheduling = JOB_SPEC.spec.scheduling.model_copy(update={"gang": "kueue", "queue": "q"})
    job = JOB_SPEC.model_copy(update={"spec": JOB_SPEC.spec.model_copy(update={"scheduling": scheduling})})
    made = plan(replace(NEW, job=job, children=children, records=Records(control=ASKED)))
    assert (child("master").key in {object_key(item) for item in made.apply}) is makes_master


def test_a_control_record_that_is_right_is_not_written() -> None:
    assert plan(RUNNING).control is None


def test_pods_of_a_job_that_etcd_has_forgotten_go_before_it_begins_anew() -> None:
    made = plan(replace(RUNNING, records=Records()))
    assert {item.key for item in made.delete} == BOTH.keys()
    assert made.control is None
    anew = plan(replace(RUNNING, children={}, records=Records()))
    assert (anew.stage, anew.give_access, anew.control) == (Stage.RUNNING, True, ASKED)


def test_a_job_that_is_to_be_suspended_is_asked_to_stop_and_keeps_its_pods() -> None:
    made = plan(TO_SUSPEND)
    assert made.control is not None
    assert (made.control.stop, made.control.reason) == (True, "suspended")
    assert made.delete == ()
    assert plan_status(TO_SUSPEND, made, [], NOW).stop_requested_time == NOW


def test_a_suspended_job_loses_its_jobs_and_a_resumed_one_is_cleared_first() -> None:
    suspended = replace(TO_SUSPEND, pods=(), records=STOPPED)
    assert {item.key for item in plan(suspended).delete} == BOTH.keys()
    resumed = replace(suspended, job=JOB_SPEC)
    assert not plan(resumed).clear_records, "its Jobs have to go first"
    assert plan(replace(resumed, children={})).clear_records


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        (("Failed", "BackoffLimitExceeded"), Reason.BACKOFF_LIMIT_EXCEEDED),
        (("Failed", "PodFailurePolicy"), Reason.JOB_FAILED),
    ],
)
def test_a_job_fails_with_its_jobs(conditions: tuple[str, str], reason: Reason) -> None:
    failed = child("master", conditions[0], reason=conditions[1])
    ending = plan(replace(RUNNING, children={**BOTH, failed.key: failed})).ending
    assert ending is not None
    assert (ending.complete, ending.reason) == (False, reason)


def test_a_job_is_complete_when_its_jobs_are_and_it_was_not_asked_to_stop() -> None:
    complete = {item.key: item for item in (child("hybrid", "Complete"), child("master", "Complete"))}
    done = replace(RUNNING, children=complete, pods=(), records=Records(phase=phase(Phase.DONE)))
    ending = plan(done).ending
    assert ending is not None
    assert ending.complete
    assert plan(replace(done, records=None)).ending is None, "it may have been stopped"
    assert plan(replace(done, records=STOPPED)).ending is None


def test_an_ending_that_was_told_once_stays() -> None:
    told = Condition(type="Complete", status="True", reason="IterationsDone", last_transition_time=NOW)
    made = plan(replace(NEW, status=RLJobStatus(conditions=[told])))
    assert made.stage is Stage.FINISHED
    assert not {object_key(item) for item in made.apply} & BOTH.keys(), "its pods are not made again"


def test_a_deleted_job_waits_for_its_pods_then_for_etcd_and_for_neither_for_ever() -> None:
    gone = replace(DELETED, deleted_at=NOW - timedelta(seconds=GRACE))
    first = plan(gone).removal
    assert first is not None
    assert {item.key for item in first.delete} == BOTH.keys()
    assert not first.clear_etcd
    second = plan(replace(gone, children={}, pods=())).removal
    assert second is not None
    assert second.clear_etcd
    assert not second.abandon_etcd
    late = plan(replace(gone, deleted_at=NOW - timedelta(hours=1))).removal
    assert late is not None
    assert late.clear_etcd
    assert late.abandon_etcd


def test_a_job_expires_after_its_time() -> None:
    spec = JOB_SPEC.spec.model_copy(update={"ttl_seconds_after_finished": 10})
    told = Condition(type="Failed", status="True", reason="JobFailed", last_transition_time=NOW)
    status = RLJobStatus(conditions=[told], completion_time=NOW - timedelta(seconds=9))
    ended = replace(NEW, job=JOB_SPEC.model_copy(update={"spec": spec}), status=status)
    assert not plan(ended).expire
    assert plan_job(ended, build, GRACE, NOW + timedelta(seconds=1)).expire


def test_a_job_whose_end_is_not_told_yet_is_looked_at_again_to_expire() -> None:
    spec = JOB_SPEC.spec.model_copy(update={"ttl_seconds_after_finished": 10})
    failed = child("master", "Failed", reason="BackoffLimitExceeded")
    ended = replace(RUNNING, job=JOB_SPEC.model_copy(update={"spec": spec}), children={failed.key: failed})
    made = plan(ended)
    assert not made.expire
    assert plan_pace(ended, made, [], None, NOW, jobs=1) == 10.0
    assert plan_pace(ended, made, [], 0.5, NOW, jobs=1) == 0.5


def test_many_jobs_are_looked_at_less_often_while_nothing_happens() -> None:
    going = replace(DELETED, deleted_at=NOW - timedelta(seconds=GRACE))

    def pace(observed: Observed, jobs: int) -> float | None:
        return plan_pace(observed, plan(observed), [], None, NOW, jobs=jobs)

    assert [pace(RUNNING, jobs) for jobs in (1, 1000)] == [1.0, 5.0]
    assert [pace(going, jobs) for jobs in (1, 2000)] == [5.0, 10.0]
    assert pace(TO_SUSPEND, 1000) == 5.0


def test_a_failed_job_is_asked_for_its_pods_words_until_they_are_told() -> None:
    failed = child("master", "Failed", reason="BackoffLimitExceeded")
    ended = replace(RUNNING, children={failed.key: failed})
    assert lacks_last_words(ended)
    words = Trouble(Reason.CONTAINER_FAILED, "boom", blocks=False, ended_at=NOW)
    assert not lacks_last_words(replace(ended, pods=(replace(pod("master"), troubles=(words,)),)))
    told = Condition(type="Failed", status="True", reason="BackoffLimitExceeded", last_transition_time=NOW)
    assert not lacks_last_words(replace(ended, status=RLJobStatus(conditions=[told])))


def test_the_time_of_a_condition_changes_with_its_status_only() -> None:
    made = plan(NEW)
    first = plan_conditions(NEW, made, [], NOW)
    later = replace(NEW, status=RLJobStatus(conditions=first), generation=2)
    second = plan_conditions(later, plan(later), [], NOW + timedelta(hours=1))
    assert {item.last_transition_time for item in second} == {NOW}
    assert {item.observed_generation for item in second} == {2}


def test_turns_are_told_once() -> None:
    before = plan_status(NEW, plan(NEW), [], NOW)
    assert [turn.reason for turn in find_turns(RLJobStatus(), before)] == ["Starting"]
    assert find_turns(before, before) == []
    running = plan_status(RUNNING, plan(RUNNING), [], NOW)
    assert [turn.reason for turn in find_turns(before, running)] == ["Running"]


def test_components_have_the_names_that_this_test_uses() -> None:
    assert {f"job-{name}" for name in (Component.HYBRID, Component.MASTER)} == {key.name for key in BOTH}
