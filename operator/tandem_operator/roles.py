"""What the operator may do: one table, from which its roles are made. A test shows that each verb is used."""

from dataclasses import dataclass

from tandem_operator.build import KubernetesObject
from tandem_operator.resources import (
    CLAIM_TEMPLATE,
    DEPLOYMENT,
    EVENT,
    JOB,
    LEASE,
    OPTIONAL,
    OWNED,
    POD,
    RLJOB,
    Kind,
)

WATCHED = ("list", "watch")
APPLIED = ("create", "patch")
"""A server-side apply is a patch, and needs to create as well where there is nothing yet."""
DELETED = frozenset({JOB, DEPLOYMENT, CLAIM_TEMPLATE})


@dataclass(frozen=True, slots=True)
class Grant:
    """Verbs on one kind, or on a part of it."""

    kind: Kind
    verbs: tuple[str, ...]
    subresource: str = ""

    @property
    def resource(self) -> str:
        """As roles name it."""
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural


GRANTS = (
    Grant(RLJOB, (*WATCHED, "patch", "delete")),
    Grant(RLJOB, ("patch",), "status"),
    Grant(RLJOB, ("update",), "finalizers"),  # asked for by OwnerReferencesPermissionEnforcement, where it is on
    Grant(POD, (*WATCHED, "patch")),
    Grant(EVENT, (*WATCHED, "create")),
    *(Grant(kind, (*WATCHED, *APPLIED, *(("delete",) if kind in DELETED else ()))) for kind in (*OWNED, *OPTIONAL)),
)
"""In all namespaces that the operator looks after."""

LEASE_GRANTS = (Grant(LEASE, ("get", "create", "update")),)
"""In the operator's own namespace."""


def build_rules(grants: tuple[Grant, ...]) -> list[KubernetesObject]:
    """The rules of a Role or ClusterRole."""
    return [
        {"apiGroups": [each.kind.group], "resources": [each.resource], "verbs": list(each.verbs)} for each in grants
    ]
