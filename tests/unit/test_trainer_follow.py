"""What a trainer rank does next, for every phase."""

from dataclasses import replace

import pytest
from tandem_core.coordination.records import PhaseRecord
from tandem_core.phases import Phase
from tandem_trainer.follow import Action, Policy, Position, Step, TrainerAhead, plan_action

STAYS = Policy(checkpoint_every=10, engine_releases=False)
TAKES_TURNS = replace(STAYS, engine_releases=True)


def phase(name: Phase, iteration: int, version: int | None = None) -> PhaseRecord:
    version = iteration if version is None else version
    return PhaseRecord(iteration=iteration, phase=name, version=version, token=1, started_at=100.0)


WARMUP, TRAINING, PUBLISHING = phase(Phase.WARMUP, 0), phase(Phase.TRAINING, 7), phase(Phase.PUBLISHING, 7)
LOADING, ROLLOUT, DRAINING = phase(Phase.LOADING, 7), phase(Phase.ROLLOUT, 8), phase(Phase.DRAINING, 8)
AGAIN = PUBLISHING.model_copy(update={"attempt": 1})
DONE, FAILED = phase(Phase.DONE, 30), phase(Phase.FAILED, 7)

FRESH = Position()
AT_6 = Position(trained=6, saved=0, published=6, acknowledged=phase(Phase.PUBLISHING, 6))
AT_7 = replace(AT_6, trained=7)
PUBLISHED_7 = replace(AT_7, published=7)
AT_10 = Position(trained=10, saved=0, published=10)
AT_30 = Position(trained=30, saved=20, published=30)


@pytest.mark.parametrize(
    ("phase", "position", "policy", "expected"),
    [
        pytest.param(None, FRESH, STAYS, Action(Step.WAIT), id="no master yet"),
        pytest.param(FAILED, AT_6, STAYS, Action(Step.EXIT), id="failed"),
        # Warm-up and training
        pytest.param(WARMUP, FRESH, STAYS, Action(Step.WARM_UP), id="warm-up"),
        pytest.param(WARMUP, Position(trained=0), STAYS, Action(Step.ACKNOWLEDGE), id="warmed up"),
        pytest.param(WARMUP, Position(trained=0, acknowledged=WARMUP), STAYS, Action(Step.WAIT), id="warm-up told"),
        pytest.param(TRAINING, AT_6, STAYS, Action(Step.TRAIN, 7), id="train"),
        pytest.param(TRAINING, AT_7, STAYS, Action(Step.ACKNOWLEDGE), id="trained"),
        pytest.param(TRAINING, replace(AT_7, acknowledged=TRAINING), STAYS, Action(Step.WAIT), id="training told"),
        pytest.param(
            TRAINING, replace(AT_6, offloaded=True), TAKES_TURNS, Action(Step.LOAD_BACK), id="memory back first"
        ),
        pytest.param(
            phase(Phase.TRAINING, 11), AT_10, STAYS, Action(Step.SAVE), id="due checkpoint before further training"
        ),
        # Publishing
        pytest.param(PUBLISHING, AT_7, STAYS, Action(Step.PUBLISH, 7), id="publish"),
        pytest.param(PUBLISHING, PUBLISHED_7, STAYS, Action(Step.ACKNOWLEDGE), id="published"),
        pytest.param(AGAIN, PUBLISHED_7, STAYS, Action(Step.PUBLISH, 7), id="it was damaged"),
        pytest.param(AGAIN, replace(PUBLISHED_7, offloaded=True), TAKES_TURNS, Action(Step.LOAD_BACK), id="damaged"),
        pytest.param(AGAIN, replace(PUBLISHED_7, attempt=1), STAYS, Action(Step.ACKNOWLEDGE), id="published again"),
        pytest.param(PUBLISHING, PUBLISHED_7, TAKES_TURNS, Action(Step.OFFLOAD), id="engine gets the memory"),
        pytest.param(
            PUBLISHING, replace(PUBLISHED_7, offloaded=True), TAKES_TURNS, Action(Step.ACKNOWLEDGE), id="then told"
        ),
        pytest.param(phase(Phase.PUBLISHING, 10), AT_10, STAYS, Action(Step.ACKNOWLEDGE), id="told before saving"),
        pytest.param(
            phase(Phase.PUBLISHING, 10),
            replace(AT_10, acknowledged=phase(Phase.PUBLISHING, 10)),
            STAYS,
            Action(Step.SAVE),
            id="saves while engines load",
        ),
        pytest.param(phase(Phase.PUBLISHING, 10), AT_10, TAKES_TURNS, Action(Step.SAVE), id="saves before offloading"),
        pytest.param(phase(Phase.LOADING, 10), AT_10, STAYS, Action(Step.SAVE), id="save not forgotten when Loading"),
        pytest.param(phase(Phase.ROLLOUT, 11), AT_10, STAYS, Action(Step.SAVE), id="save not forgotten in Rollout"),
        pytest.param(
            phase(Phase.LOADING, 11),
            Position(trained=11, saved=10, published=11, unsafe=True),
            STAYS,
            Action(Step.SAVE),
            id="the iteration after a failed save is saved",
        ),
        pytest.param(
            phase(Phase.LOADING, 11),
            Position(trained=11, saved=11, published=11, unsafe=True),
            STAYS,
            Action(Step.WAIT),
            id="a save that failed is not tried again in the same iteration",
        ),
        pytest.param(
            DONE,
            replace(AT_30, saved=30, exported=30, unsafe=True),
            STAYS,
            Action(Step.SAVE),
            id="a job does not end without its last checkpoint",
        ),
        # Between
        pytest.param(LOADING, PUBLISHED_7, STAYS, Action(Step.WAIT), id="loading"),
        pytest.param(ROLLOUT, PUBLISHED_7, STAYS, Action(Step.WAIT), id="rollout"),
        pytest.param(DRAINING, PUBLISHED_7, STAYS, Action(Step.WAIT), id="draining"),
        pytest.param(
            DRAINING, replace(PUBLISHED_7, offloaded=True), TAKES_TURNS, Action(Step.WAIT), id="engine still has it"
        ),
        # After a restart
        pytest.param(ROLLOUT, FRESH, STAYS, Action(Step.WARM_UP), id="starts anew without a checkpoint"),
        pytest.param(ROLLOUT, Position(trained=5, saved=5), STAYS, Action(Step.TRAIN, 6), id="replays"),
        pytest.param(PUBLISHING, Position(trained=5, saved=5), STAYS, Action(Step.TRAIN, 6), id="replays, then more"),
        pytest.param(ROLLOUT, Position(trained=7, saved=5), STAYS, Action(Step.RESTORE, 7), id="restores the version"),
        pytest.param(PUBLISHING, Position(trained=7, saved=5), STAYS, Action(Step.PUBLISH, 7), id="publishes again"),
        pytest.param(
            PUBLISHING,
            replace(PUBLISHED_7, acknowledged=PUBLISHING.model_copy(update={"token": 0})),
            STAYS,
            Action(Step.ACKNOWLEDGE),
            id="tells a new master",
        ),
        pytest.param(phase(Phase.WARMUP, 6), AT_7, STAYS, Action(Step.RESTART), id="goes back to the checkpoint"),
        # The end
        pytest.param(DONE, AT_30, STAYS, Action(Step.SAVE), id="done saves"),
        pytest.param(DONE, replace(AT_30, saved=30), STAYS, Action(Step.EXPORT), id="done exports"),
        pytest.param(DONE, replace(AT_30, saved=30, exported=30), STAYS, Action(Step.ACKNOWLEDGE), id="done told"),
        pytest.param(
            DONE, replace(AT_30, saved=30, exported=30, acknowledged=DONE), STAYS, Action(Step.EXIT), id="done exits"
        ),
        pytest.param(DONE, replace(AT_30, offloaded=True), TAKES_TURNS, Action(Step.LOAD_BACK), id="needs the weights"),
    ],
)
def test_plan(phase: PhaseRecord | None, position: Position, policy: Policy, expected: Action) -> None:
    assert plan_action(phase, position, policy) == expected


def test_memory_comes_back_as_soon_as_the_own_engine_released_it() -> None:
    offloaded = replace(PUBLISHED_7, offloaded=True)
    assert plan_action(DRAINING, offloaded, TAKES_TURNS, engine_released=True) == Action(Step.LOAD_BACK)


STOPPED = phase(Phase.DONE, 7).model_copy(update={"stopped": True})


@pytest.mark.parametrize(
    ("position", "stop_wanted", "expected"),
    [
        pytest.param(PUBLISHED_7, True, Step.SAVE, id="saves although no checkpoint is due"),
        pytest.param(replace(PUBLISHED_7, saved=7, exported=7), True, Step.ACKNOWLEDGE, id="tells"),
        pytest.param(replace(PUBLISHED_7, saved=7, exported=7, acknowledged=STOPPED), True, Step.EXIT, id="ends"),
        pytest.param(replace(PUBLISHED_7, saved=7, acknowledged=STOPPED), False, Step.EXIT, id="ends, late"),
        pytest.param(Position(trained=7, saved=7), False, Step.WAIT, id="is resumed, and waits for the master"),
    ],
)
def test_a_job_that_is_stopped_early(position: Position, stop_wanted: bool, expected: Step) -> None:
    assert plan_action(STOPPED, position, STAYS, stop_wanted=stop_wanted).step is expected


def test_a_checkpoint_newer_than_the_master_is_refused() -> None:
    with pytest.raises(TrainerAhead, match=r"checkpoint has iteration 20 .* Rollout of iteration 8"):
        plan_action(ROLLOUT, Position(trained=20, saved=20), STAYS)


COLLECTIVE = (Step.WARM_UP, Step.TRAIN, Step.SAVE, Step.EXPORT)


@pytest.mark.parametrize("policy", [STAYS, TAKES_TURNS])
@pytest.mark.parametrize("missed", [(), (Phase.LOADING,), (Phase.LOADING, Phase.ROLLOUT, Phase.DRAINING)])
def test_collectives_come_in_the_same_order_whichever_phases_a_rank_sees(
    policy: Policy, missed: tuple[Phase, ...]
) -> None:
    """Phases that wait for no trainer may go by unseen: the ranks must not wait for each other for ever."""
    short = replace(policy, checkpoint_every=2)
    assert _collectives(short, missed) == _collectives(short, ())
    assert _collectives(short, ())[-2:] == [(Step.SAVE, 5), (Step.EXPORT, 5)]


def _collectives(policy: Policy, missed: tuple[Phase, ...]) -> list[tuple[Step, int]]:
    """The collective steps of a whole job, each with `trained` after it."""
    order = (Phase.ROLLOUT, Phase.DRAINING, Phase.TRAINING, Phase.PUBLISHING, Phase.LOADING)
    phases = [phase(name, 0) for name in (Phase.WARMUP, Phase.PUBLISHING, Phase.LOADING)]
    phases += [phase(name, iteration) for iteration in range(1, 6) for name in order]
    phases += [phase(Phase.DONE, 5)]
    position, steps = Position(), []
    for record in phases:
        if record.phase in missed:
            continue
        while (action := plan_action(record, position, policy, engine_released=True)).step not in (
            Step.WAIT,
            Step.EXIT,
        ):
            position = _after(action, position, record)
            if action.step in COLLECTIVE:
                steps.append((action.step, position.trained))
            if action.step is Step.ACKNOWLEDGE and record.phase is Phase.PUBLISHING and missed:
                break  # the master is faster than this rank
    return steps


def _after(action: Action, position: Position, record: PhaseRecord) -> Position:
    match action.step:
        case Step.WARM_UP:
            return replace(position, trained=0)
        case Step.TRAIN:
            assert action.iteration == position.trained + 1
            return replace(position, trained=action.iteration)
        case Step.PUBLISH | Step.RESTORE:
            return replace(position, published=action.iteration)
        case Step.SAVE:
            return replace(position, saved=position.trained)
        case Step.EXPORT:
            return replace(position, exported=position.trained)
        case Step.OFFLOAD | Step.LOAD_BACK:
            return replace(position, offloaded=action.step is Step.OFFLOAD)
        case Step.ACKNOWLEDGE:
            return replace(position, acknowledged=record)
    raise AssertionError(action)
