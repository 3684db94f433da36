"""Pods of a job, cut down to what decisions need."""

from dataclasses import dataclass
from datetime import datetime

from tandem_operator.build import Component, KubernetesObject
from tandem_operator.build.names import COMPONENT_LABEL
from tandem_operator.plan.failures import Trouble, classify_pod

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation: pods with a lower cost are removed first when a Deployment shrinks."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the API server last told of it."""

    name: str
    uid: str
    resource_version: int
    created_at: datetime
    component: str
    ready: bool
    ended: bool
    """Whether all its containers have ended for good."""
    failed: bool
    deleting: bool
    troubles: tuple[Trouble, ...] = ()
    deletion_cost: int = 0

    @property
    def inference(self) -> bool:
        """Whether it is an inference pod."""
        return self.component == Component.INFERENCE


def parse_pod(body: KubernetesObject) -> Pod:
    """What matters of `body`."""
    metadata, status = body["metadata"], body.get("status", {})
    conditions = {item["type"]: item["status"] for item in status.get("conditions", [])}
    cost = metadata.get("annotations", {}).get(DELETION_COST, "0")
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=int(metadata["resourceVersion"]),
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
        component=metadata.get("labels", {}).get(COMPONENT_LABEL, ""),
        ready=conditions.get("Ready") == "True",
        ended=status.get("phase") in ("Succeeded", "Failed"),
        failed=status.get("phase") == "Failed",
        deleting="deletionTimestamp" in metadata,
        troubles=classify_pod(body),
        deletion_cost=int(cost) if cost.lstrip("-").isdigit() else 0,
    )
