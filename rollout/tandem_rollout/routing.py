"""Which engine gets the next request: pure functions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tandem_core.coordination.records import EngineState, Member, Role

DEFAULT_CAPACITY = 256
"""Answers at a time for an engine that does not say how many it takes."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that may get requests."""

    name: str
    """The member's key below members/, such as sidecar/addition-hybrid-0."""
    url: str
    version: int
    capacity: int
    """Answers that it generates at a time."""
    role: Role
    incarnation: str
    """Differs each time the engine or the process that owns it starts."""


def serving_engines(
    members: Mapping[str, Member], *, newest_version: int, max_staleness: int, roles: Collection[Role]
) -> dict[str, Engine]:
    """The engines, by name, that serve a version at most `max_staleness` behind `newest_version`."""
    engines = {}
    for name, member in members.items():
        status = member.engine
        if member.role not in roles or status is None or status.state != EngineState.SERVING:
            continue
        if status.version < 0 or newest_version - status.version > max_staleness:
            continue
        engines[name] = Engine(
            name=name,
            url=status.url,
            version=status.version,
            capacity=status.max_concurrent_sequences or DEFAULT_CAPACITY,
            role=member.role,
            incarnation=f"{member.incarnation}/{status.restarts}",
        )
    return engines


def choose_engine(engines: Mapping[str, Engine], loads: Mapping[str, int], preferred: str = "") -> Engine | None:
    """The engine for the next request, or None if all are full.

    `loads` counts the answers in progress on each engine. An engine takes requests while it has room for one answer:
    those that do not fit wait in it for less than a decoding step. `preferred`, which holds the answer's prefix, comes
    first if it has room; else the one with the smallest share of its capacity in use, by name where that is equal.
    """
    with_room = [engine for engine in engines.values() if loads.get(engine.name, 0) < engine.capacity]
    if not with_room:
        return None
    for engine in with_room:
        if engine.name == preferred:
            return engine
    return min(with_room, key=lambda engine: (loads.get(engine.name, 0) / engine.capacity, engine.name))
