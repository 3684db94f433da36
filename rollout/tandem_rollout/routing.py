"""Which engine gets the next request: pure functions."""

import math
from collections.abc import Collection, Iterable, Mapping
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


def serving_engines(members: Mapping[str, Member], roles: Collection[Role]) -> dict[str, Engine]:
    """The engines of these roles, by name, that serve a version."""
    engines = {}
    for name, member in members.items():
        status = member.engine
        if member.role in roles and status is not None and status.state == EngineState.SERVING and status.version >= 0:
            engines[name] = Engine(
                name=name,
                url=status.url,
                version=status.version,
                capacity=status.max_concurrent_sequences or DEFAULT_CAPACITY,
                role=member.role,
                incarnation=engine_incarnation(member),
            )
    return engines


def engine_incarnation(member: Member) -> str:
    """Engine.incarnation of a member's engine."""
    return f"{member.incarnation}/{member.engine.restarts if member.engine is not None else 0}"


def fair_share(members: Mapping[str, Member], served: Mapping[str, str], roles: Collection[Role], answers: int) -> int:
    """How many of `answers` each engine of these roles is to have at a time.

    An engine that loads weights counts too, or those that were faster would leave it nothing: `served` (name to
    incarnation) are those that have served before. One that starts for the first time, or has failed, does not.
    """
    taking_part = [
        name
        for name, member in members.items()
        if member.role in roles
        and member.engine is not None
        and member.engine.state != EngineState.FAILED
        and served.get(name) == engine_incarnation(member)
    ]
    return math.ceil(answers / max(1, len(taking_part)))


def engines_with_room(engines: Iterable[Engine], loads: Mapping[str, int], share: int) -> list[Engine]:
    """Those that take another request; `loads` counts the answers in progress on each.

    An engine takes requests while it has less than its `share`, and room for one answer: those that do not fit wait in
    it for less than a decoding step.
    """
    return [engine for engine in engines if loads.get(engine.name, 0) < min(engine.capacity, share)]


def choose_engine(
    engines: Iterable[Engine], loads: Mapping[str, int], *, oldest_version: int = 0, preferred: str = ""
) -> Engine | None:
    """The one of `engines` for a request that takes `oldest_version` and newer ones; None: none serves that.

    `preferred`, which holds the answer's prefix, comes first; else the one with the smallest share of its capacity in
    use, by name where that is equal.
    """
    return min(
        (engine for engine in engines if engine.version >= oldest_version),
        key=lambda engine: (engine.name != preferred, loads.get(engine.name, 0) / engine.capacity, engine.name),
        default=None,
    )
