"""What seems to be wrong with a job."""

from typing import Any

import pytest
from tandem_core.coordination.records import EngineState
from tandem_core.job import RLJobStatus
from tandem_core.phases import Phase
from tandem_local.inspection.diagnosis import NOTHING_FOUND, describe_findings
from tandem_local.inspection.facts import ContainerFacts, EventFacts, JobFacts
from tandem_local.inspection.findings import Level, find_problems
from tandem_local.inspection.log_rules import RULES, last_error, match_rules

from .job_facts import NOW, TRAINER, ack, condition, engine, facts, pod, snapshot

KILLED = ContainerFacts("trainer", "running", True, 4, "OOMKilled, exit code 137")
FAILED = condition("Failed", "True", "JobFailed", "the reward model is gone")


def event(reason: str, **changes: Any) -> EventFacts:
    values = {"at": NOW - 10, "warning": True, "about": "pod/a", "message": "it says why"} | changes
    return EventFacts(reason=reason, **values)


@pytest.mark.parametrize(
    ("found", "level", "what", "remedy"),
    [
        (facts(status=RLJobStatus(), created_at=NOW - 99), Level.BAD, "the operator has not said", "tandem-system"),
        (facts(generation=7), Level.BAD, "the operator has not seen the newest edit", "tandem-system"),
        (facts(FAILED), Level.BAD, "JobFailed: the reward model is gone", "The message is the master's"),
        (facts(condition("Accepted", "False", "InvalidSpec", "x")), Level.BAD, "InvalidSpec: x", "delete the job"),
        (facts(condition("Progressing", "False", "Unschedulable", "x")), Level.BAD, "Unschedulable: x", "add nodes"),
        (facts(condition("Progressing", "False", "Queued", "x")), Level.ADVICE, "Queued: x", "look at the queue"),
        (facts(condition("Degraded", "True", "OutOfMemory", "x")), Level.ADVICE, "OutOfMemory: x", "memory limit"),
        (facts(pods=(pod(troubles=("no claim",)),)), Level.ADVICE, "no claim", ""),
        (facts(pods=(pod(containers=(KILLED,)),)), Level.ADVICE, "started again 4 times, the last time: OOM", "logs"),
        (facts(snapshot=snapshot(led=False)), Level.ADVICE, "no master leads", "master's log"),
        (
            facts(snapshot=snapshot(Phase.TRAINING, acks=(ack("trainer-0", Phase.TRAINING, "NaN"),))),
            Level.BAD,
            "trainer-0 could not do its part of Training: NaN",
            "log of trainer-0",
        ),
        (
            facts(snapshot=snapshot(Phase.DRAINING, seconds=40)),
            Level.ADVICE,
            "Draining of iteration 3 has lasted 40 s, and its deadline is 1 min 0 s",
            "spec.deadlines.draining",
        ),
        (
            facts(
                snapshot=snapshot(
                    summary=snapshot().summary.model_copy(update={"updated_at": NOW - 500}),  # type: ignore[union-attr]
                    load=snapshot().load.model_copy(update={"measured_at": NOW - 300}),  # type: ignore[union-attr]
                )
            ),
            Level.BAD,
            "the master has reported nothing for 5 min 0 s",
            "liveness",
        ),
        (facts(snapshot=snapshot(members=(TRAINER,))), Level.ADVICE, "sidecar-add-hybrid-0 gone", "events and logs"),
        (
            facts(snapshot=snapshot(members=(engine(problem="/dev/shm is full"), TRAINER))),
            Level.ADVICE,
            "sidecar-add-hybrid-0: /dev/shm is full",
            "",
        ),
        (
            facts(snapshot=snapshot(members=(engine(EngineState.FAILED), TRAINER))),
            Level.ADVICE,
            "the engine of add-hybrid-0 has failed",
            "add-hybrid-0/inference",
        ),
        (
            facts(snapshot=snapshot(newest_version=7)),
            Level.ADVICE,
            "serves version 2, and 7 is committed",
            "cannot load the newer one",
        ),
        (
            facts(snapshot=snapshot(members=(engine(restarts=5), TRAINER))),
            Level.ADVICE,
            "the engine of add-hybrid-0 was started again 5 times",
            "add-hybrid-0/inference",
        ),
        (facts(events=(event("FailedMount", count=3),)), Level.ADVICE, "FailedMount: it says why (3 times)", "Secret"),
        (
            facts(logs={"add-hybrid-0-x/trainer": ("torch.OutOfMemoryError: CUDA out of memory. Tried",)}),
            Level.ADVICE,
            "the GPU's memory was not enough",
            "tokensPerMicrobatch",
        ),
        (
            facts(FAILED, logs={"m/master": ("OSError: [Errno 28] No space left on device",)}),
            Level.BAD,
            "a disk or shared memory is full",
            "checkpoint.size",
        ),
        (
            facts(
                pods=(pod(containers=(KILLED,)),),
                logs={"add-hybrid-0-x7k2p/trainer": ("Traceback", "ValueError: a bad batch", "bye")},
            ),
            Level.ADVICE,
            "the last error of a container that ended: ValueError: a bad batch",
            "",
        ),
        (facts(problems=("etcd: no",)), Level.ADVICE, "could not be read: etcd: no", ""),
    ],
)
def test_what_is_wrong_is_found_with_what_to_do(found: JobFacts, level: Level, what: str, remedy: str) -> None:
    problems = [problem for problem in find_problems(found, NOW) if what in problem.what]
    assert [problem.level for problem in problems] == [level], find_problems(found, NOW)
    assert remedy in problems[0].remedy


@pytest.mark.parametrize(
    "found",
    [
        facts(),
        facts(snapshot=snapshot()),
        facts(snapshot=snapshot(Phase.TRAINING, members=(engine(EngineState.RELEASED), TRAINER))),
        facts(snapshot=snapshot(newest_version=3)),
        facts(
            condition("Complete", "True", "IterationsDone"), events=(event("BackOff"),), snapshot=snapshot(led=False)
        ),
        facts(condition("Progressing", "False", "Suspended")),
        facts(events=(event("BackOff", at=NOW - 3600), event("Pulled", warning=False), event("Evicted"))),
        facts(logs={"a/b": ("10 tokens, all is well",)}),
    ],
)
def test_where_all_is_well_nothing_is_found(found: JobFacts) -> None:
    assert find_problems(found, NOW) == []
    assert NOTHING_FOUND in describe_findings([])


def test_the_worst_comes_first_and_nothing_twice() -> None:
    conditions = (condition("Degraded", "True", "Evicted", "x"), condition("Progressing", "False", "Refused", "y"))
    found = find_problems(facts(*conditions, events=(event("Unhealthy"), event("Unhealthy"))), NOW)
    assert [problem.what.partition(":")[0] for problem in found] == ["Refused", "Evicted", "Unhealthy"]


def test_a_finding_says_where_it_comes_from_and_what_to_do() -> None:
    text = describe_findings(find_problems(facts(condition("Progressing", "False", "Unschedulable", "0/3")), NOW))
    assert text.startswith("bad    Unschedulable: 0/3\n       from: condition Progressing=False\n       -> The message")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.", "GPU's memory"),
        ("ValueError: No available memory for the cache blocks.", "cache"),
        ("sqlite3.OperationalError: database or disk is full", "is full"),
        ("huggingface_hub.errors.GatedRepoError: 403 Cannot access gated repo", "hub"),
        ("socket.gaierror: [Errno -2] Name or service not known", "resolved"),
        ("[rank3]:[E] Watchdog caught collective operation timeout: WorkNCCL", "collective"),
        ("RuntimeError: No CUDA GPUs are available", "GPU cannot be used"),
        ('{"error": "etcd at etcd:2379 did not answer for 300 s"}', "etcd"),
        ("the replay buffer postgresql://u:***@db/x failed: no", "replay buffer"),
        ("ModuleNotFoundError: No module named 'my_rewards'", "module"),
        ("OSError: [Errno 98] Address already in use", "port"),
        ("Fatal Python error: Segmentation fault", "native"),
    ],
)
def test_well_known_lines_are_explained(line: str, word: str) -> None:
    (match,) = match_rules(["before", line, "after"])
    assert word in match.rule.meaning
    assert match.line == line
    assert match.rule.remedy


def test_every_rule_for_logs_has_been_tried() -> None:
    assert len(RULES) == 12


def test_the_newest_error_of_a_log_is_found() -> None:
    lines = ["KeyError: 'a'", "torch.cuda.MyError: b", '{"level": "info"}', "fine: so far"]
    assert last_error(lines) == "torch.cuda.MyError: b"
    assert last_error(["all is well"]) == ""
