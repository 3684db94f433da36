"""The order of phases."""

import pytest
from tandem_core.phases import Phase, next_phase


def test_a_job_of_two_iterations_goes_through_all_phases_in_order() -> None:
    seen = [(Phase.WARMUP, 0)]
    while not seen[-1][0].final:
        seen.append(next_phase(*seen[-1], last_iteration=2))
    cycle = [Phase.ROLLOUT, Phase.DRAINING, Phase.TRAINING, Phase.PUBLISHING, Phase.LOADING]
    assert seen == [
        (Phase.WARMUP, 0),
        (Phase.PUBLISHING, 0),
        (Phase.LOADING, 0),
        *((phase, 1) for phase in cycle),
        *((phase, 2) for phase in cycle),
        (Phase.DONE, 2),
    ]


def test_a_resumed_job_publishes_what_it_had_reached_and_goes_on() -> None:
    assert next_phase(Phase.WARMUP, 7, 10) == (Phase.PUBLISHING, 7)
    assert next_phase(Phase.LOADING, 7, 10) == (Phase.ROLLOUT, 8)


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.FAILED])
def test_nothing_follows_a_final_phase(phase: Phase) -> None:
    with pytest.raises(ValueError, match="no phase follows"):
        next_phase(phase, 1, 2)
