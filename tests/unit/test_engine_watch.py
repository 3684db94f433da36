"""Which engines hang."""

import pytest
from tandem_sidecar.engine_watch import BUSY_CHECKS, SILENT_CHECKS, STOPPED_CHECKS, HangDetector, Vitals

IDLE = [0.01] * 1000
"""Processor seconds in each check: of an engine whose server takes a request now and then."""
BUSY = [0.9] * 1000
STARVED = [0.05] * 1000
"""On a machine with much else to do."""


def checks_until_hang(steps: list[float], *, stopped: int = 0, starting: bool = False) -> int | None:
    """How many checks without an answer it takes; None: it never counts as a hang. The first `stopped` checks find a
    process that was stopped."""
    detector, used = HangDetector(), 100.0
    for check, seconds in enumerate(steps, 1):
        used += seconds
        if detector.unanswered(Vitals((7,) if check <= stopped else (), used), starting=starting):
            return check
    return None


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        pytest.param(IDLE, SILENT_CHECKS, id="no answer and no work"),
        pytest.param(BUSY[:BUSY_CHECKS], BUSY_CHECKS, id="work without end"),
        pytest.param(BUSY[: BUSY_CHECKS - 1], None, id="a long step"),
        pytest.param(STARVED[: BUSY_CHECKS - 1], None, id="a long step on a loaded machine"),
        pytest.param([*BUSY[:20], *IDLE], 19 + SILENT_CHECKS, id="stuck after some work"),
    ],
)
def test_an_engine_hangs_if_it_neither_answers_nor_works(steps: list[float], wanted: int | None) -> None:
    assert checks_until_hang(steps) == wanted


def test_an_engine_with_a_stopped_process_hangs_however_busy_the_others_are() -> None:
    assert checks_until_hang(BUSY, stopped=1000) == STOPPED_CHECKS
    assert checks_until_hang(BUSY[:100], stopped=STOPPED_CHECKS - 1) is None


def test_an_engine_that_starts_may_take_its_time_but_not_be_stopped() -> None:
    assert checks_until_hang(IDLE, starting=True) is None
    assert checks_until_hang(IDLE, stopped=1000, starting=True) == STOPPED_CHECKS


def test_an_answer_makes_up_for_all_that_was_before() -> None:
    detector = HangDetector()
    detector.answered()
    for _ in range(3):
        assert not any(detector.unanswered(Vitals((), 0.0), starting=False) for _ in range(SILENT_CHECKS - 1))
        detector.answered()
