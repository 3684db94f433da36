"""What a checkpoint engine is to do next: a pure function of what it sees. Level-triggered, so that one that was
restarted, or has missed a phase, goes on with what counts now."""

from dataclasses import dataclass
from typing import Literal

from tandem_core.coordination.records import EngineState, PhaseRecord, Role
from tandem_core.phases import Phase
from tandem_core.weights.manifest import Commit

ReleaseMode = Literal["sleep", "restart", "none"]


@dataclass(frozen=True)
class LoadedVersion:
    """The weights an engine serves."""

    version: int
    incarnation: str
    """The trainer's start that published them: after a restart of the trainer the same version is published anew."""


@dataclass(frozen=True)
class Situation:
    """What a checkpoint engine sees."""

    role: Role
    release: ReleaseMode
    phase: PhaseRecord | None
    newest: Commit | None
    """The newest committed version."""
    state: EngineState
    loaded: LoadedVersion | None
    """What the engine has; None: dummy weights, or no engine."""
    acknowledged: PhaseRecord | None
    """The phase that was last acknowledged, also with an error."""
    draining: bool = False
    """Whether this inference pod is about to go."""


@dataclass(frozen=True)
class Wait:
    """Nothing until something changes."""


@dataclass(frozen=True)
class Start:
    """Start the engine, on dummy weights."""


@dataclass(frozen=True)
class Release:
    """Stop generating, hand back partial answers, and give up the devices as the job says."""


@dataclass(frozen=True)
class Stop:
    """End the engine: the job is over."""


@dataclass(frozen=True)
class Load:
    """Start or wake the engine if need be, and serve this version."""

    commit: Commit


@dataclass(frozen=True)
class Acknowledge:
    """Say that this pod's part of the phase is done."""

    record: PhaseRecord


Action = Wait | Start | Release | Stop | Load | Acknowledge

_DOWN = (EngineState.RELEASED, EngineState.FAILED)


def plan_action(seen: Situation) -> Action:
    """The next action; Wait if all is as it should be."""
    if seen.phase is not None and seen.phase.phase.final:
        # The devices are free for the trainer to write the model.
        return Wait() if seen.state is EngineState.RELEASED else Stop()
    if seen.role is Role.INFERENCE:
        return _plan_inference(seen)
    if seen.phase is None:
        return _plan_released(seen)
    match seen.phase.phase:
        case Phase.ROLLOUT:
            return _plan_serving(seen, seen.newest)
        case Phase.DRAINING:
            return _plan_draining(seen, seen.phase)
        case Phase.LOADING:
            return _plan_loading(seen, seen.phase)
    return _plan_released(seen)


def _plan_inference(seen: Situation) -> Action:
    """No trainer shares the devices: start at once, and take each version when it is committed; until the pod goes."""
    if seen.draining:
        return Wait() if _has_released(seen) else Release()
    if seen.newest is None and seen.state in _DOWN:
        return Start()
    return _plan_serving(seen, seen.newest)


def _plan_released(seen: Situation) -> Action:
    """The trainer has the devices, or memory for both is there."""
    if seen.release == "none":
        return Start() if seen.state in _DOWN else Wait()
    return Wait() if seen.state is EngineState.RELEASED else Release()


def _plan_draining(seen: Situation, phase: PhaseRecord) -> Action:
    if not _has_released(seen):
        return Release()
    if seen.acknowledged != phase:
        return Acknowledge(phase)
    return _plan_released(seen)


def _has_released(seen: Situation) -> bool:
    """Whether the engine works on nothing, and has given up what the job says."""
    if seen.release == "none":
        return seen.state is not EngineState.SERVING
    return seen.state is EngineState.RELEASED


def _plan_loading(seen: Situation, phase: PhaseRecord) -> Action:
    if seen.newest is None or seen.newest.version != phase.version:
        return Wait()  # the watch of the commit is behind that of the phase
    action = _plan_serving(seen, seen.newest)
    if isinstance(action, Wait) and seen.acknowledged != phase:
        return Acknowledge(phase)
    return action


def _plan_serving(seen: Situation, newest: Commit | None) -> Action:
    if newest is None:
        return Wait()
    wanted = LoadedVersion(newest.version, newest.incarnation)
    return Wait() if seen.state is EngineState.SERVING and seen.loaded == wanted else Load(newest)
