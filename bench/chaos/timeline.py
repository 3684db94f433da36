"""When each phase began, and what a fault cost. Pure; times are Unix seconds."""

import statistics
from dataclasses import dataclass, field

from tandem_core.coordination.records import PhaseRecord
from tandem_core.phases import Phase


@dataclass
class Timeline:
    """The phases of one job as they were seen."""

    records: list[PhaseRecord] = field(default_factory=list)
    struck: set[int] = field(default_factory=set)
    """Iterations in which something was struck or was being mended."""

    def add(self, record: PhaseRecord) -> None:
        """A phase has begun; the same one from a new master is no new one."""
        if not self.records or (self.records[-1].iteration, self.records[-1].phase) != (record.iteration, record.phase):
            self.records.append(record)

    @property
    def now(self) -> PhaseRecord | None:
        """The phase that was seen last."""
        return self.records[-1] if self.records else None

    def at(self, moment: float) -> PhaseRecord:
        """The phase that the job was in."""
        return next(record for record in reversed(self.records) if record.started_at <= moment)

    def end_after(self, moment: float) -> float | None:
        """When the phase of that moment ended; None: not yet."""
        return next((record.started_at for record in self.records if record.started_at > moment), None)

    def begin_of(self, iteration: int) -> float | None:
        """When its first rollout phase began; for the one after the last, the end of the job. None: not yet."""
        for record in self.records:
            if (record.iteration == iteration and record.phase is Phase.ROLLOUT) or (
                record.iteration == iteration - 1 and record.phase is Phase.DONE
            ):
                return record.started_at
        return None

    def usual_phase_seconds(self, phase: Phase) -> float:
        """Median over undisturbed iterations; 0 if there is none."""
        lengths = [
            after.started_at - record.started_at
            for record, after in zip(self.records, self.records[1:], strict=False)
            if record.phase is phase and record.iteration > 1 and record.iteration not in self.struck
        ]
        return statistics.median(lengths) if lengths else 0.0

    def usual_iteration_seconds(self) -> float:
        """Median over undisturbed iterations; 0 if there is none."""
        begins = {record.iteration: self.begin_of(record.iteration) for record in self.records if record.iteration > 1}
        lengths = [
            after - begin
            for iteration, begin in begins.items()
            if iteration not in self.struck and begin is not None and (after := self.begin_of(iteration + 1))
        ]
        return statistics.median(lengths) if lengths else 0.0


@dataclass(frozen=True)
class Recovery:
    """What one fault cost, in seconds."""

    phase: float
    """From the strike until the phase that was struck had ended, less what that phase usually takes."""
    whole: float
    """From the strike until everything ran again and served the newest version."""
    job: float
    """How much longer than usual this iteration and the next one took together."""


def measure_recovery(timeline: Timeline, struck_at: float, whole_at: float) -> Recovery:
    """What the fault of that moment cost; the iteration after the struck one has ended."""
    record = timeline.at(struck_at)
    ended = timeline.end_after(struck_at) or whole_at
    begin = timeline.begin_of(record.iteration) or record.started_at
    after = timeline.begin_of(record.iteration + 2) or whole_at
    return Recovery(
        phase=max(0.0, ended - struck_at - timeline.usual_phase_seconds(record.phase)),
        whole=whole_at - struck_at,
        job=max(0.0, after - begin - 2 * timeline.usual_iteration_seconds()),
    )
