"""The table of what each fault cost. Pure."""

import statistics
from collections.abc import Sequence

from bench.chaos.faults import PHASES
from bench.chaos.results import Result
from bench.chaos.timeline import Recovery

_TEXT = """\
`make chaos` (`python -m bench.chaos --seed {seed}`): {faults} faults in {jobs} jobs of {iterations} iterations, each
with two trainer ranks, one engine beside them and one in an inference pod. Every job ended Done with all its
iterations, each answer trained on exactly once, nothing left behind, and nobody's help.

A cell says `phase / whole` in seconds. `phase`: from the strike until the phase that was struck had ended, less the
median time of that phase in undisturbed iterations. `whole`: from the strike until everything ran again and served the
newest version; the job may go on long before; the 30 s for which something is away or full count. The last column: the
most that an iteration with such a fault and the one after took longer than two undisturbed ones (median {usual:.2f} s
each).
"""


def build_table(results: Sequence[Result]) -> str:
    """Markdown, one row for each fault, one column for each phase. At least one result, all of the same seed."""
    rows: dict[str, dict[str, list[Recovery]]] = {}
    for result in results:
        rows.setdefault(result.planned.name, {}).setdefault(result.phase, []).append(result.recovery)
    head = "| fault | " + " | ".join(PHASES) + " | job, at most |"
    line = "| --- |" + " ---: |" * (len(PHASES) + 1)
    body = [
        f"| {name} | " + " | ".join(_cell(phases.get(phase, [])) for phase in PHASES) + f" | {_most(phases)} |"
        for name, phases in sorted(rows.items())
    ]
    usual = {result.job: result.usual_seconds for result in results}
    text = _TEXT.format(
        seed=results[0].seed,
        faults=len(results),
        jobs=len(usual),
        iterations=results[0].iterations,
        usual=statistics.median(usual.values()),
    )
    return "\n".join([text, head, line, *body])


def _cell(recoveries: Sequence[Recovery]) -> str:
    return ", ".join(f"{recovery.phase:.1f} / {recovery.whole:.1f}" for recovery in recoveries)


def _most(phases: dict[str, list[Recovery]]) -> str:
    return f"{max(recovery.job for recoveries in phases.values() for recovery in recoveries):.1f}"
