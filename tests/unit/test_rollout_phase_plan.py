"""Where a master goes on, when versions are evaluated, and what is told."""

import pytest
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.records import Control, PhaseRecord
from tandem_core.job import RLJobSpec
from tandem_core.phases import Phase
from tandem_rollout.phase_plan import (
    Recorded,
    StartingPoint,
    evaluation_due,
    live_spec,
    phase_deadline,
    phase_version,
    plan_start,
)
from tandem_rollout.publication import old_prefixes
from tandem_rollout.storage.history import EvaluationRecord, EvaluationSample, IterationRecord
from tandem_rollout.summary import restore_summary

SPEC = RLJobSpec.model_validate(
    {
        "iterations": 10,
        "model": {"path": "/model"},
        "data": {"dataset": {"path": "x.jsonl"}},
        "rewards": {"scorers": [{"type": "exact"}]},
        "evaluation": {"every": 4},
        "rollout": {"prompts": 8},
    }
)


def record(phase: Phase, iteration: int) -> PhaseRecord:
    return PhaseRecord(iteration=iteration, phase=phase, version=0, token=1, started_at=0.0)


STOPPED = record(Phase.DONE, 5).model_copy(update={"stopped": True})


@pytest.mark.parametrize(
    ("found", "recorded", "stopping", "start"),
    [
        (None, Recorded(0, 0), False, StartingPoint(Phase.WARMUP, 0)),
        (None, Recorded(5, 0), False, StartingPoint(Phase.WARMUP, 5)),
        (record(Phase.WARMUP, 0), Recorded(0, 0), False, StartingPoint(Phase.WARMUP, 0)),
        (record(Phase.ROLLOUT, 5), Recorded(4, 0), False, StartingPoint(Phase.ROLLOUT, 5)),
        (record(Phase.DRAINING, 5), Recorded(5, 0), False, StartingPoint(Phase.DRAINING, 5)),
        (record(Phase.DRAINING, 5), Recorded(4, 8), False, StartingPoint(Phase.DRAINING, 5)),
        (record(Phase.DRAINING, 5), Recorded(4, 7), False, StartingPoint(Phase.LOADING, 4, repeated=True)),
        (record(Phase.TRAINING, 5), Recorded(5, 0), False, StartingPoint(Phase.TRAINING, 5)),
        (record(Phase.TRAINING, 5), Recorded(4, 9), False, StartingPoint(Phase.LOADING, 4, repeated=True)),
        (record(Phase.PUBLISHING, 5), Recorded(5, 0), False, StartingPoint(Phase.PUBLISHING, 5)),
        (record(Phase.LOADING, 5), Recorded(5, 0), False, StartingPoint(Phase.LOADING, 5)),
        (record(Phase.DONE, 10), Recorded(10, 0), False, StartingPoint(Phase.DONE, 10)),
        (record(Phase.DONE, 5), Recorded(5, 0), False, StartingPoint(Phase.DONE, 5)),
        (STOPPED, Recorded(5, 0), True, StartingPoint(Phase.DONE, 5)),
        (STOPPED, Recorded(5, 0), False, StartingPoint(Phase.WARMUP, 5, repeated=True)),
        (record(Phase.FAILED, 5), Recorded(5, 0), False, StartingPoint(Phase.FAILED, 5)),
    ],
)
def test_where_a_master_goes_on(
    found: PhaseRecord | None, recorded: Recorded, stopping: bool, start: StartingPoint
) -> None:
    assert plan_start(found, recorded, SPEC, stopping=stopping) == start


def test_versions_are_evaluated_first_last_and_now_and_then() -> None:
    assert [each for each in range(11) if evaluation_due(SPEC, each, frozenset())] == [0, 4, 8, 10]
    assert [each for each in range(11) if evaluation_due(SPEC, each, frozenset({0, 4}))] == [8, 10]
    seldom = SPEC.model_copy(update={"evaluation": SPEC.evaluation.model_copy(update={"every": 0})})
    assert [each for each in range(11) if evaluation_due(seldom, each, frozenset())] == [0, 10]


def test_the_phase_names_the_version_that_is_published_or_loaded() -> None:
    assert phase_version(Phase.PUBLISHING, 5, committed=4) == 5
    assert phase_version(Phase.LOADING, 5, committed=5) == 5
    assert phase_version(Phase.ROLLOUT, 6, committed=5) == 5


def test_every_phase_that_waits_has_a_deadline() -> None:
    assert all(phase_deadline(SPEC, phase) > 0 for phase in Phase if phase != Phase.FAILED)


def test_the_last_two_versions_are_kept() -> None:
    keys = JobKeys("u")
    assert list(old_prefixes(keys, 0)) == []
    assert list(old_prefixes(keys, 1)) == [keys.acks(0)]
    assert list(old_prefixes(keys, 5)) == [keys.acks(4), keys.version(3)]


def test_a_summary_is_restored_from_history() -> None:
    metrics = {"reward": 1.0, "trained_samples": 8.0, "response_tokens": 5.0, "tokens_per_second": 100.0, "loss": 0.5}
    iterations = [
        IterationRecord(0, 0, {}, {"Warmup": 3.0}, 0.0),
        IterationRecord(1, 1, metrics | {"reward": 0.0}, {"Rollout": 2.0, "Loading": 1.0}, 0.0),
        IterationRecord(2, 2, metrics, {"Rollout": 2.0}, 0.0),
    ]
    sample = EvaluationSample(0, "p", "a", "t", (), 1.0, correct=True)
    evaluations = [EvaluationRecord(0, 0, (), 0.0), EvaluationRecord(2, 2, (sample,), 0.0)]
    summary = restore_summary(iterations, evaluations, 10)
    assert summary.reward == 1.0
    assert summary.reward_average == pytest.approx(0.1)
    assert (summary.samples, summary.loss, summary.iterations) == (16, 0.5, 10)
    assert (summary.accuracy_before, summary.accuracy) == (0.0, 1.0)
    assert summary.phase_seconds == {Phase.WARMUP: 3.0, Phase.ROLLOUT: 4.0, Phase.LOADING: 1.0}


def test_what_a_job_is_told_while_it_runs_takes_the_place_of_its_specification() -> None:
    deadlines = SPEC.deadlines.model_copy(update={"training": 5.0})
    assert live_spec(SPEC, None) == SPEC
    assert live_spec(SPEC, Control(stop=True)) == SPEC
    changed = live_spec(SPEC, Control(iterations=3, deadlines=deadlines))
    assert (changed.iterations, changed.deadlines.training) == (3, 5.0)
    assert changed.model_copy(update={"iterations": SPEC.iterations, "deadlines": SPEC.deadlines}) == SPEC
    assert evaluation_due(changed, 4, frozenset())  # the one that was in progress
