"""Who belongs to a job: pure functions."""

from collections.abc import Collection, Mapping

from tandem_core.coordination.records import Ack, Member, Role
from tandem_core.job import RLJob


def trainer_names(job: RLJob) -> tuple[str, ...]:
    """The trainer ranks as they acknowledge: trainer-<rank>."""
    return tuple(f"{Role.TRAINER}-{rank}" for rank in range(job.spec.hybrid.world_size))


def sidecar_names(job: RLJob) -> tuple[str, ...]:
    """The hybrid pods' sidecars as they acknowledge: sidecar-<job>-hybrid-<i>."""
    return tuple(f"{Role.SIDECAR}-{job.metadata.name}-hybrid-{index}" for index in range(job.spec.hybrid.replicas))


def missing_members(job: RLJob, members: Mapping[str, Member]) -> list[str]:
    """Trainer ranks and sidecars that are not registered; `members` by role/name."""
    present = {f"{member.role}-{member.name}" for member in members.values()}
    return [name for name in (*trainer_names(job), *sidecar_names(job)) if name not in present]


def all_answered(acks: Mapping[str, Ack], expected: Collection[str], below: str) -> bool:
    """Whether all `expected` members have acknowledged without an error; `below` comes before their names in `acks`."""
    return all(below + name in acks and not acks[below + name].error for name in expected)


def list_names(names: tuple[str, ...], limit: int = 8) -> str:
    """At most `limit` of the names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def list_problems(members: Collection[Member]) -> str:
    """What members say that they wait for, or go on without."""
    return "; ".join(sorted(f"{member.role}-{member.name}: {member.problem}" for member in members if member.problem))
