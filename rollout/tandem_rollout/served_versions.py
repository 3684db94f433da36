"""Which engine served which version when, told by what engines say of themselves."""

from collections.abc import Iterable

from tandem_core.coordination.records import EngineState, Member

from tandem_rollout.storage.history import ServedRecord


class ServedVersions:
    """Members' records go in as they change, stretches of serving one version come out."""

    def __init__(self) -> None:
        self._serving: dict[str, tuple[int, float]] = {}
        self._ended: list[ServedRecord] = []

    def observe(self, members: Iterable[Member], now: float) -> None:
        """What engines say at `now` (Unix seconds)."""
        serving = {
            member.pod: member.engine.version
            for member in members
            if member.engine is not None and member.engine.state is EngineState.SERVING
        }
        before, self._serving = self._serving, {}
        for pod, (version, since) in before.items():
            if serving.get(pod) == version:
                self._serving[pod] = version, since
            else:
                self._ended.append(ServedRecord(pod, version, since, now))
        for pod, version in serving.items():
            self._serving.setdefault(pod, (version, now))

    def current(self, now: float) -> list[ServedRecord]:
        """What nobody has taken yet: stretches that have ended, and those that last until `now`."""
        return [*self._ended, *(ServedRecord(pod, *serving, now) for pod, serving in self._serving.items())]

    def take(self) -> list[ServedRecord]:
        """The stretches that have ended since it was last taken."""
        taken, self._ended = self._ended, []
        return taken
