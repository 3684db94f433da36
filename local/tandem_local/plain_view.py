"""Shows a run as lines of text, for logs and pipes."""

import time
from typing import TextIO

from tandem_local.progress import Pace, describe_changes, describe_duration, describe_progress
from tandem_local.run_state import RunState

_LONGEST_SILENCE_SECONDS = 10.0


class PlainView:
    """A line for each event and each iteration, and at least one every 10 s."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._before: RunState | None = None
        self._pace = Pace()
        self._shown: tuple[object, ...] = ()
        self._shown_at = 0.0

    def show(self, state: RunState) -> None:
        """Print what is new."""
        now = time.monotonic()
        for line in describe_changes(self._before, state):
            self._print(line, now)
        self._before = state
        if state.status.final:
            return
        summary = state.summary
        if summary is not None:
            self._pace.observe(summary.phase, summary.iteration, now)
        milestone = (summary.iteration, summary.reward, summary.accuracy) if summary else ()
        if milestone != self._shown or now - self._shown_at >= _LONGEST_SILENCE_SECONDS:
            self._shown = milestone
            self._print(self._progress(state), now)

    def _progress(self, state: RunState) -> str:
        parts = describe_progress(state.summary)
        ready = sum(all(item.ready for item in pod.containers) for pod in state.pods)
        parts.append(f"{ready}/{len(state.pods)} pods ready")
        remaining = self._pace.remaining_seconds(state.summary.iterations) if state.summary else None
        if remaining is not None:
            parts.append(f"about {describe_duration(remaining)} left")
        return " | ".join(parts)

    def _print(self, line: str, now: float) -> None:
        self._shown_at = now
        print(f"{time.strftime('%H:%M:%S')} {line}", file=self._out, flush=True)
