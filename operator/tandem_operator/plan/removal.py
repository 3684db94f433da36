"""How a deleted job goes: pods first, then what it has in etcd, then itself."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tandem_operator.observe.children import Child
from tandem_operator.observe.observed import Observed
from tandem_operator.resources import WORKLOADS

POD_SECONDS = 180.0
"""How long pods have to end, from the end of the grace period on: longer than their own grace, two minutes. A pod on a
node that is lost never tells that it ended."""
ETCD_SECONDS = 300.0
"""How long etcd is waited for, from then on: a job must be able to go though etcd never comes back."""


@dataclass(frozen=True, slots=True)
class Removal:
    """One step of it."""

    delete: tuple[Child, ...] = ()
    """Workloads, and with them their pods."""
    clear_etcd: bool = False
    """Whether keys, user and role are to go now."""
    abandon_etcd: bool = False
    """Whether they are left where they are if etcd does not answer."""


def plan_removal(observed: Observed, grace_seconds: float, now: datetime) -> Removal:
    """The next step. Pods that still run would write their keys again, so that they go before these."""
    deleted_at = observed.deleted_at or now
    over = deleted_at + timedelta(seconds=grace_seconds)
    workloads = tuple(child for key, child in observed.own.items() if key.kind in WORKLOADS)
    waits = bool(workloads or observed.pods) and now < over + timedelta(seconds=POD_SECONDS)
    return Removal(
        delete=tuple(child for child in workloads if not child.deleting),
        clear_etcd=not waits,
        abandon_etcd=now >= over + timedelta(seconds=POD_SECONDS + ETCD_SECONDS),
    )
