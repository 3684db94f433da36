"""What the phase driver does next: pure functions."""

from dataclasses import dataclass

from tandem_core.coordination.records import Control, PhaseRecord
from tandem_core.job import RLJobSpec
from tandem_core.phases import Phase


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the replay buffer knows when the master starts."""

    last_recorded: int
    """Newest iteration with a batch; 0: none."""
    complete_groups: int
    """Scored groups that are in no batch."""


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Where the master goes on."""

    phase: Phase
    iteration: int
    repeated: bool = False
    """Whether the job goes back: acknowledgements from this phase on are void."""


def plan_start(record: PhaseRecord | None, recorded: Recorded, spec: RLJobSpec, *, stopping: bool) -> StartingPoint:
    """Where a master that starts goes on, from the phase in etcd (None: a new job, or one that is resumed).

    A phase that was begun is carried out again: what its members acknowledged counts. Draining or Training whose
    answers were lost with the last master goes back to loading the version before, which every pod still holds, and
    generates what is missing: a crash changes no batch. A job that was stopped, and is no longer to stop, is resumed:
    trainers catch up with the newest recorded batch, which they may have trained on already.
    """
    if record is None:
        return StartingPoint(Phase.WARMUP, recorded.last_recorded)
    phase, iteration = record.phase, record.iteration
    if phase == Phase.DONE and record.stopped and not stopping:
        return StartingPoint(Phase.WARMUP, recorded.last_recorded, repeated=True)
    without_batch = phase in (Phase.DRAINING, Phase.TRAINING) and recorded.last_recorded < iteration
    enough = spec.rollout.complete_prompts or spec.rollout.prompts
    can_build = phase == Phase.DRAINING and recorded.complete_groups >= enough
    if without_batch and not can_build:
        return StartingPoint(Phase.LOADING, iteration - 1, repeated=True)
    return StartingPoint(phase, iteration)


def live_spec(spec: RLJobSpec, control: Control | None) -> RLJobSpec:
    """`spec`, with what `control` says has changed since the job began."""
    wanted = {} if control is None else {"iterations": control.iterations, "deadlines": control.deadlines}
    return spec.model_copy(update={name: value for name, value in wanted.items() if value is not None})


def phase_version(phase: Phase, iteration: int, committed: int) -> int:
    """PhaseRecord.version: what is published or loaded, else `committed`, the newest committed version."""
    return iteration if phase in (Phase.PUBLISHING, Phase.LOADING) else committed


def evaluation_due(spec: RLJobSpec, iteration: int, evaluated: frozenset[int]) -> bool:
    """Whether version `iteration` is to be evaluated: before the first iteration, every so many, and after the last."""
    if iteration in evaluated:
        return False
    every = spec.evaluation.every
    return iteration == 0 or iteration >= spec.iterations or (every > 0 and iteration % every == 0)


def phase_deadline(spec: RLJobSpec, phase: Phase) -> float:
    """Seconds that the members have for a phase. Done, in which the trained model is saved, has training's."""
    deadlines = spec.deadlines
    return {
        Phase.WARMUP: deadlines.warmup,
        Phase.ROLLOUT: deadlines.rollout,
        Phase.DRAINING: deadlines.draining,
        Phase.TRAINING: deadlines.training,
        Phase.PUBLISHING: deadlines.publishing,
        Phase.LOADING: deadlines.loading,
        Phase.DONE: deadlines.training,
    }[phase]
