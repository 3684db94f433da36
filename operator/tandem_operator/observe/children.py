"""Objects that belong to a job, cut down to what decisions need."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem_operator.build import KubernetesObject
from tandem_operator.resources import DEPLOYMENT, FIELD_MANAGER, JOB, SECRET, Kind, ObjectKey


@dataclass(frozen=True, slots=True)
class Child:
    """An object as the API server last told of it."""

    key: ObjectKey
    uid: str
    resource_version: int
    owner: str
    """The uid of the controller that owns it; empty: nobody."""
    fingerprint: str
    """Of the fields that the operator applied and still owns. It changes when somebody else writes one of them."""
    deleting: bool = False
    conditions: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    """Of Jobs and Deployments: status, reason and message by type."""
    replicas: int = 0
    """Of a Deployment: pods that there are to be."""
    failed_pods: int = 0
    """Of a Job: pods that counted as failed."""
    held: bool = False
    """Of a Job: whether it is suspended, by Kueue for example."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Of a Secret: its values in base64."""

    def holds(self, condition: str) -> bool:
        """Whether the condition of this type is True."""
        return self.conditions.get(condition, ("",))[0] == "True"

    @property
    def finished(self) -> bool:
        """Of a Job: whether it starts no more pods."""
        return self.holds("Complete") or self.holds("Failed")


def parse_child(kind: Kind, body: KubernetesObject) -> Child:
    """What matters of `body`."""
    metadata, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    owners = [owner["uid"] for owner in metadata.get("ownerReferences", []) if owner.get("controller")]
    workload = kind in (JOB, DEPLOYMENT)
    return Child(
        key=ObjectKey(kind, metadata["name"]),
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        owner=owners[0] if owners else "",
        fingerprint=fingerprint_fields(body),
        deleting="deletionTimestamp" in metadata,
        conditions=_conditions(status) if workload else {},
        replicas=spec.get("replicas", 1) if kind is DEPLOYMENT else 0,
        failed_pods=status.get("failed", 0) if kind is JOB else 0,
        held=kind is JOB and bool(spec.get("suspend")),
        data=body.get("data", {}) if kind is SECRET else {},
    )


def fingerprint_fields(body: KubernetesObject) -> str:
    """A hash of the fields that the operator applied and owns; empty if there are none.

    Whoever else changes such a field takes it over: so the API server's own books tell of every difference, whatever
    the way in which it writes quantities and defaults.
    """
    for entry in body["metadata"].get("managedFields", []):
        if entry["manager"] == FIELD_MANAGER and entry["operation"] == "Apply" and not entry.get("subresource"):
            return hash_object(entry.get("fieldsV1", {}))
    return ""


def hash_object(value: Any) -> str:
    """A hash of any JSON value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()


def _conditions(status: KubernetesObject) -> dict[str, tuple[str, str, str]]:
    return {
        item["type"]: (item["status"], item.get("reason", ""), item.get("message", ""))
        for item in status.get("conditions", [])
    }
