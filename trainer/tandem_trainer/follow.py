"""What a trainer rank does next: a pure function of the phase and of what the rank has behind it.

All ranks plan alike. Steps in which they talk to each other (warm-up, training, saving, exporting) come in the same
order on every rank, whichever phases a rank happens to see: between training iteration i and i + 1, a due checkpoint
is saved exactly once, before anything is trained further.
"""

from dataclasses import dataclass
from enum import StrEnum

from tandem_core.coordination.records import PhaseRecord
from tandem_core.errors import TandemError
from tandem_core.phases import Phase


class Step(StrEnum):
    """Something a rank does."""

    WAIT = "wait"
    """Until the phase or the engine changes."""
    WARM_UP = "warm_up"
    TRAIN = "train"
    PUBLISH = "publish"
    RESTORE = "restore"
    """Make sure that this pod still holds the committed version: its shared memory is new after a loss."""
    SAVE = "save"
    EXPORT = "export"
    OFFLOAD = "offload"
    LOAD_BACK = "load_back"
    ACKNOWLEDGE = "acknowledge"
    RESTART = "restart"
    """Go back to the checkpoint: the job is to be continued from before what this rank has trained."""
    EXIT = "exit"


@dataclass(frozen=True)
class Action:
    """A step and what it is about."""

    step: Step
    iteration: int = -1
    """TRAIN: the iteration; PUBLISH and RESTORE: the version."""


@dataclass(frozen=True)
class Policy:
    """What the job says."""

    checkpoint_every: int
    engine_releases: bool
    """Whether engine and trainer take turns on the devices' memory (hybrid.inference.release is not none)."""


@dataclass(frozen=True)
class Position:
    """What this rank has behind it."""

    trained: int = -1
    """-1: initial weights; 0: the warm-up; i: iteration i."""
    saved: int = -1
    """`trained` of the newest checkpoint, loaded or begun."""
    unsafe: bool = False
    """Whether the last save failed, or the newest checkpoint was damaged: the next iteration is saved, then."""
    published: int = -1
    """The newest version that this start of the rank published or restored."""
    attempt: int = 0
    """PhaseRecord.attempt of that publication."""
    exported: int | None = None
    """`trained` of the exported model."""
    offloaded: bool = False
    acknowledged: PhaseRecord | None = None


class TrainerAhead(TandemError):
    """The checkpoint is newer than what the master knows of."""


def plan_action(
    phase: PhaseRecord | None,
    position: Position,
    policy: Policy,
    *,
    engine_released: bool = False,
    stop_wanted: bool = False,
) -> Action:
    """The next action.

    `engine_released`: the engine of this rank's own pod has given its memory up in this iteration. `stop_wanted`: the
    job is to end early. Raises TrainerAhead if the job is to be continued from before this rank's checkpoint.
    """
    if phase is None:
        return Action(Step.WAIT)
    if phase.phase is Phase.FAILED:
        return Action(Step.EXIT)
    if phase.phase is Phase.DONE and not is_over(phase, stop_wanted=stop_wanted):
        # Stopped, and resumed: the master is about to go on. A rank that came through the stop has told, and ends.
        return Action(Step.EXIT if position.acknowledged == phase else Step.WAIT)
    target = wanted_iteration(phase)
    if position.trained < target:
        return _plan_catching_up(position, policy)
    if phase.phase is Phase.DONE:
        return _plan_end(phase, position)
    if position.trained > target:
        return _plan_going_back(phase, position, target)
    match phase.phase:
        case Phase.WARMUP | Phase.TRAINING:
            return _acknowledge_or_wait(phase, position)
        case Phase.PUBLISHING:
            return _plan_publishing(phase, position, policy)
        case Phase.DRAINING:
            return Action(Step.LOAD_BACK if position.offloaded and engine_released else Step.WAIT)
    if position.published < target:
        return Action(Step.RESTORE, target)
    return _plan_leaving_the_device(position, policy) or Action(Step.WAIT)


def is_over(phase: PhaseRecord, *, stop_wanted: bool) -> bool:
    """Whether nothing follows; a job that was stopped early goes on when it is no longer to stop."""
    return phase.phase.final and (stop_wanted or not phase.stopped)


def wanted_iteration(phase: PhaseRecord) -> int:
    """The iteration whose training a rank must have behind it in this phase; for Warmup and Training at its end."""
    match phase.phase:
        case Phase.ROLLOUT | Phase.DRAINING:
            return phase.iteration - 1
        case Phase.DONE:
            return phase.version  # a job that is stopped ends between iterations
    return phase.iteration


def _plan_catching_up(position: Position, policy: Policy) -> Action:
    if position.offloaded:
        return Action(Step.LOAD_BACK)
    if position.trained < 0:
        return Action(Step.WARM_UP)
    if _save_due(position, policy):
        return Action(Step.SAVE)
    return Action(Step.TRAIN, position.trained + 1)


def _plan_going_back(phase: PhaseRecord, position: Position, target: int) -> Action:
    if position.saved > target:
        raise TrainerAhead(
            f"the checkpoint has iteration {position.saved} behind it, the master is in {phase.phase} of iteration "
            f"{phase.iteration}: the master's replay buffer was lost or is an older one. Restore it, or start again "
            "with an empty checkpoint directory"
        )
    return Action(Step.RESTART)


def _plan_publishing(phase: PhaseRecord, position: Position, policy: Policy) -> Action:
    if position.published != phase.iteration or position.attempt < phase.attempt:
        return Action(Step.LOAD_BACK) if position.offloaded else Action(Step.PUBLISH, phase.iteration)
    if policy.engine_releases:  # engines may take the memory as soon as all ranks have acknowledged
        return _plan_leaving_the_device(position, policy) or _acknowledge_or_wait(phase, position)
    if position.acknowledged != phase:
        return Action(Step.ACKNOWLEDGE)
    return _plan_leaving_the_device(position, policy) or Action(Step.WAIT)


def _plan_leaving_the_device(position: Position, policy: Policy) -> Action | None:
    """What needs the weights where they are, then offloading.

    Which iteration is the last one may change until the end, and ranks must not differ in it: so what is due then is
    done in Done.
    """
    if _save_due(position, policy):
        return Action(Step.SAVE)
    if policy.engine_releases and not position.offloaded:
        return Action(Step.OFFLOAD)
    return None


def _plan_end(phase: PhaseRecord, position: Position) -> Action:
    unsaved = position.saved < position.trained or position.unsafe
    if position.offloaded and (unsaved or position.exported != position.trained):
        return Action(Step.LOAD_BACK)
    if unsaved:
        return Action(Step.SAVE)
    if position.exported != position.trained:
        return Action(Step.EXPORT)
    return Action(Step.EXIT if position.acknowledged == phase else Step.ACKNOWLEDGE)


def _acknowledge_or_wait(phase: PhaseRecord, position: Position) -> Action:
    return Action(Step.WAIT if position.acknowledged == phase else Step.ACKNOWLEDGE)


def _save_due(position: Position, policy: Policy) -> bool:
    """Version 0 is saved too: a directory that cannot be written to shows before hours of work depend on it."""
    return position.saved < position.trained and (position.trained % policy.checkpoint_every == 0 or position.unsafe)
