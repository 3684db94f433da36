"""Engines and the versions they serve. Pure."""

from collections.abc import Iterable, Sequence

from tandem_core.coordination.records import Member, Role

from tandem_rollout.page.live import EngineNow, VersionBar, Versions
from tandem_rollout.page.timeline import MAX_PODS, natural_order
from tandem_rollout.storage.history import ServedRecord

_KINDS = {Role.SIDECAR: "hybrid", Role.INFERENCE: "inference"}


def build_engines(members: Iterable[Member], newest: int) -> list[EngineNow]:
    """The engines among the members, those of hybrid pods first; `newest`: the committed version."""
    engines = [
        EngineNow(
            pod=member.pod,
            kind=_KINDS[member.role],
            state=member.engine.state,
            version=member.engine.version,
            behind=max(0, newest - member.engine.version) if member.engine.version >= 0 else 0,
            restarts=member.engine.restarts,
            problem=member.problem,
        )
        for member in members
        if member.engine is not None and member.role in _KINDS
    ]
    return sorted(engines, key=lambda engine: (engine.kind, natural_order(engine.pod)))


def build_versions(served: Sequence[ServedRecord], origin: float, end: float) -> Versions:
    """The stretches between the Unix times `origin` and `end`; of very many pods the first by name."""
    inside = [record for record in served if record.started_at < end and record.ended_at > origin]
    pods = sorted({record.pod for record in inside}, key=natural_order)[:MAX_PODS]
    lanes = {pod: lane for lane, pod in enumerate(pods)}
    return Versions(
        pods=pods,
        bars=[
            VersionBar(
                lane=lanes[record.pod],
                version=record.version,
                start=round(max(origin, record.started_at) - origin, 3),
                end=round(min(end, record.ended_at) - origin, 3),
            )
            for record in sorted(inside, key=lambda record: record.started_at)
            if record.pod in lanes
        ],
    )
