"""What a job waits for."""

import pytest
from tandem_core.coordination.records import EngineState
from tandem_core.job import RLJobStatus
from tandem_core.phases import Phase
from tandem_local.inspection.facts import ContainerFacts, JobFacts
from tandem_local.inspection.waits import find_waits

from .job_facts import NOW, ack, condition, engine, facts, pod, snapshot

CREATING = (ContainerFacts("trainer", "ContainerCreating", False, 0), ContainerFacts("set-up", "completed", False, 0))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (facts(condition("Complete", "True", "IterationsDone")), []),
        (facts(condition("Failed", "True", "JobFailed", "no")), []),
        (facts(deleting=True), ["its end: it saves a checkpoint"]),
        (facts(status=RLJobStatus(), created_at=NOW - 1), ["the operator, which has not said anything yet"]),
        (facts(generation=2), ["the operator, which has not seen the newest edit"]),
        (facts(condition("Accepted", "False", "InvalidSpec", "spec.pods")), ["InvalidSpec: spec.pods"]),
        (facts(condition("Suspended", "True", "Suspended")), ["being resumed: it is suspended"]),
        (facts(condition("Progressing", "True", "Suspending")), ["Suspending: spec.suspend is true"]),
        (facts(condition("Progressing", "False", "Unschedulable", "0/3 nodes")), ["Unschedulable: 0/3 nodes"]),
        (
            facts(pods=(pod(ready=False, containers=CREATING),)),
            ["pod add-hybrid-0-x7k2p to be ready (trainer ContainerCreating)"],
        ),
        (facts(pods=(pod(), pod("inference", ready=False))), []),
        (facts(pods=(pod(ready=False, troubles=("pod a: low on memory",)),)), ["pod a: low on memory"]),
        (
            facts(snapshot=snapshot()),
            ["Rollout of iteration 3: answers; 1 of 1 engines serve, about 1,200 tokens left"],
        ),
        (
            facts(snapshot=snapshot(members=(engine(EngineState.STARTING),))),
            ["Rollout of iteration 3: answers; 0 of 1 engines serve"],
        ),
        (facts(snapshot=snapshot(Phase.DRAINING)), ["Draining of iteration 3: 1 of 1 engines: sidecar-add-hybrid-0"]),
        (facts(snapshot=snapshot(Phase.TRAINING)), ["Training of iteration 3: 1 of 1 ranks: trainer-0"]),
        (facts(snapshot=snapshot(Phase.TRAINING, acks=(ack("trainer-0", Phase.TRAINING),))), []),
        (
            facts(snapshot=snapshot(Phase.TRAINING, acks=(ack("trainer-0", Phase.TRAINING, "no"),))),
            ["Training of iteration 3: 1 of 1 ranks"],
        ),
        (
            facts(snapshot=snapshot(Phase.WARMUP, members=(engine(),))),
            ["Warmup of iteration 3: trainer-0"],
        ),
        (
            facts(snapshot=snapshot(Phase.WARMUP, message="35 % of at most 400 steps")),
            ["Warmup of iteration 3: 35 % of at most 400 steps"],
        ),
        (
            facts(snapshot=snapshot(Phase.LOADING, problem="no room on the disk")),
            ["no room on the disk", "Loading of iteration 3: 1 of 1 engines"],
        ),
        (facts(), []),
    ],
)
def test_what_a_job_waits_for(found: JobFacts, expected: list[str]) -> None:
    waits = find_waits(found, NOW)
    assert len(waits) == len(expected), waits
    for wait, text in zip(waits, expected, strict=True):
        assert wait.text.startswith(text), wait


def test_a_wait_says_since_when_and_what_can_be_done() -> None:
    (wait,) = find_waits(facts(condition("Progressing", "False", "QuotaExceeded", "pods: 1")), NOW)
    assert wait.since == NOW - 60
    assert "kubectl describe quota" in wait.remedy


def test_an_operator_that_stays_silent_is_to_be_looked_at() -> None:
    (new,) = find_waits(facts(status=RLJobStatus(), created_at=NOW - 1), NOW)
    (old,) = find_waits(facts(status=RLJobStatus(), created_at=NOW - 100), NOW)
    assert not new.remedy
    assert "kubectl -n tandem-system get pods" in old.remedy
