"""What is said of a phase that lasts."""

import pytest
from tandem_core.phases import Phase
from tandem_rollout.live_report import describe_progress

RANKS = ("trainer-0", "trainer-1")


@pytest.mark.parametrize(
    ("phase", "steps", "answers", "missing", "expected"),
    [
        (Phase.WARMUP, (0, 400), (0, 0), RANKS, "waiting for trainer-0, trainer-1"),  # they load a checkpoint
        (Phase.WARMUP, (1, 400), (0, 0), RANKS, "0 % of at most 400 steps"),
        (Phase.WARMUP, (160, 400), (0, 0), RANKS, "35 % of at most 400 steps"),
        (Phase.WARMUP, (400, 400), (0, 0), RANKS, "95 % of at most 400 steps"),
        (Phase.ROLLOUT, (400, 400), (0, 1024), (), "0 % of 1,024 answers are finished"),
        (Phase.ROLLOUT, (400, 400), (1023, 1), (), "95 % of 1,024 answers are finished"),
        (Phase.ROLLOUT, (400, 400), (1024, 0), (), ""),  # they are being scored
        (Phase.TRAINING, (400, 400), (0, 8), RANKS[1:], "waiting for trainer-1"),
        (Phase.TRAINING, (400, 400), (0, 8), (), ""),
    ],
)
def test_a_phase_says_how_far_it_is_or_whom_it_waits_for(
    phase: Phase, steps: tuple[int, int], answers: tuple[int, int], missing: tuple[str, ...], expected: str
) -> None:
    assert describe_progress(phase, steps, answers, missing) == expected
