"""How fast engines are, from requests that tell of their tokens when they end."""

import pytest
from tandem_core.coordination.records import EngineSpeed, Role
from tandem_rollout.engine_speed import SpeedMeter, expected_length


def test_the_last_long_answer_makes_an_engine_no_slower() -> None:
    """100 answers of 100 tokens at a time, and then one of 1,000 alone: 10 tokens a second each."""
    meter = SpeedMeter()
    meter.begin()
    meter.note_full(Role.SIDECAR, 100)
    for _ in range(99):
        meter.note_answer(Role.SIDECAR, 100, 10.0)
    before = meter.speed(Role.SIDECAR, 1)
    meter.note_answer(Role.SIDECAR, 1000, 100.0)
    assert meter.speed(Role.SIDECAR, 1) == before
    assert before.tokens_per_second == 1000.0


def test_kinds_of_engines_are_measured_apart() -> None:
    meter = SpeedMeter()
    meter.note_full(Role.SIDECAR, 4)
    meter.note_answer(Role.SIDECAR, 100, 10.0)
    assert meter.speed(Role.INFERENCE, 2) == EngineSpeed(serving=2)
    meter.note_full(Role.INFERENCE, 8)
    meter.note_answer(Role.INFERENCE, 200, 10.0)
    assert [meter.speed(role, 1).tokens_per_second for role in (Role.SIDECAR, Role.INFERENCE)] == [40.0, 160.0]


def test_a_phase_that_has_told_nothing_yet_goes_by_the_one_before() -> None:
    meter = SpeedMeter()
    meter.note_full(Role.SIDECAR, 4)
    meter.note_answer(Role.SIDECAR, 100, 10.0)
    meter.begin()
    meter.note_full(Role.SIDECAR, 1)
    meter.note_answer(Role.SIDECAR, 1, 0.1)
    assert meter.speed(Role.SIDECAR, 1).tokens_per_second == 40.0
    meter.begin()
    meter.begin()
    assert meter.speed(Role.SIDECAR, 1).tokens_per_second == 40.0


@pytest.mark.parametrize(
    ("known", "finished", "answers", "length"),
    [
        pytest.param(70.0, [5], 8, 70.0, id="of the iteration before"),
        pytest.param(None, [4, 8], 4, 6.0, id="half are finished"),
        pytest.param(None, [4], 4, None, id="the short ones alone say nothing"),
        pytest.param(None, [], 0, None, id="none"),
    ],
)
def test_the_length_of_answers_is_known_when_enough_are_finished(
    known: float | None, finished: list[int], answers: int, length: float | None
) -> None:
    assert expected_length(known, finished, answers) == length
