"""Where the seconds went, and what a switch costs. Pure."""

import math
import statistics
from collections.abc import Sequence

from tandem_core.phases import Phase

from tandem_rollout.page.contents import PhaseRow, PhaseSeconds
from tandem_rollout.page.figures import round_significant
from tandem_rollout.storage.history import IterationRecord


def build_phase_seconds(records: Sequence[IterationRecord]) -> PhaseSeconds:
    """Seconds by phase and iteration, and their summary."""
    names = [phase.value for phase in Phase if any(phase.value in record.phase_seconds for record in records)]
    shown = [record for record in records if record.iteration > 0]
    seconds = [[round_significant(record.phase_seconds.get(name, 0.0)) for record in shown] for name in names]
    total = sum(sum(record.phase_seconds.values()) for record in records)
    stacked = [(name, values) for name, values in zip(names, seconds, strict=True) if any(values)]
    return PhaseSeconds(
        names=[name for name, _ in stacked],
        seconds=[values for _, values in stacked],
        iterations=[record.iteration for record in shown],
        rows=[_build_row(name, records, total) for name in names],
    )


def switch_seconds(records: Sequence[IterationRecord], phases: Sequence[Phase]) -> list[float]:
    """Seconds of `phases` together in each iteration after the warm-up that has all of them.

    The first engine start belongs to the warm-up and is no switch.
    """
    return [
        sum(record.phase_seconds[phase] for phase in phases)
        for record in records
        if record.iteration > 0 and all(phase in record.phase_seconds for phase in phases)
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed; raises ValueError for none."""
    if not values:
        raise ValueError("there is no percentile of no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def format_seconds(seconds: float) -> str:
    """A duration for people: 0.012 s, 3.4 s, 5 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _build_row(name: str, records: Sequence[IterationRecord], total: float) -> PhaseRow:
    values = [record.phase_seconds[name] for record in records if name in record.phase_seconds]
    return PhaseRow(
        phase=name,
        total=round_significant(sum(values)),
        share=round_significant(sum(values) / total) if total else 0.0,
        median=round_significant(statistics.median(values)),
        p95=round_significant(percentile(values, 0.95)),
        longest=round_significant(max(values)),
    )
