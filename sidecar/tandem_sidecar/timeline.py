"""How long the parts of a switch took, for the acknowledgement of a phase."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tandem_core.coordination.records import Activity

_KEPT = 1000
"""Nobody takes an inference pod's, which acknowledges no phases."""


class Timeline:
    """Stretches of work since it was last taken, the newest thousand."""

    def __init__(self, note: Callable[[Activity], None] = lambda _: None) -> None:
        """`note` is told of each stretch at once."""
        self._note = note
        self._activities: deque[Activity] = deque(maxlen=_KEPT)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Note the block as an activity, also if it fails."""
        started = time.time()
        try:
            yield
        finally:
            self.add(Activity(name=name, started_at=started, ended_at=time.time()))

    def add(self, *activities: Activity) -> None:
        """Note what was measured elsewhere."""
        self._activities.extend(activities)
        for activity in activities:
            self._note(activity)

    def take(self) -> tuple[Activity, ...]:
        """What was noted, and start anew."""
        taken = tuple(self._activities)
        self._activities.clear()
        return taken


def sum_seconds(activities: tuple[Activity, ...]) -> dict[str, float]:
    """`<name>_seconds` of each kind of activity."""
    totals: dict[str, float] = {}
    for activity in activities:
        key = f"{activity.name}_seconds"
        totals[key] = totals.get(key, 0.0) + activity.ended_at - activity.started_at
    return totals
