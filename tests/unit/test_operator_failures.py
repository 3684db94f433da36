"""What Kubernetes says about a pod, and the reason that it is for us."""

from typing import Any

import pytest
from tandem_core.job.conditions import Reason
from tandem_operator.plan.failures import classify_pod, classify_refusal

TIME = "2026-01-01T00:00:00Z"


def pod(**status: Any) -> dict[str, Any]:
    spec = {
        "initContainers": [{"name": "inference", "image": "i:1"}],
        "containers": [{"name": "trainer", "image": "t:1"}],
    }
    return {"metadata": {"name": "job-hybrid-0-x"}, "spec": spec, "status": status}


def scheduled(**condition: Any) -> dict[str, Any]:
    return pod(conditions=[{"type": "PodScheduled", "lastTransitionTime": TIME, **condition}])


def disrupted(reason: str) -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": TIME}
    return pod(phase="Failed", conditions=[condition])


def container(name: str = "trainer", **states: Any) -> dict[str, Any]:
    return pod(containerStatuses=[{"name": name, **states}])


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": "last words", "finishedAt": TIME}}


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        (pod(phase="Running"), []),
        (scheduled(status="True"), []),
        (scheduled(status="False", reason="Unschedulable", message="0/3 nodes"), [Reason.UNSCHEDULABLE]),
        (scheduled(status="False", reason="SchedulingGated"), [Reason.QUEUED]),
        (disrupted("EvictionByEvictionAPI"), [Reason.EVICTED]),
        (disrupted("PreemptionByScheduler"), [Reason.EVICTED]),
        (disrupted("TerminationByKubelet"), [Reason.EVICTED]),
        (disrupted("DeletionByTaintManager"), [Reason.NODE_LOST]),
        (disrupted("DeletionByPodGC"), [Reason.NODE_LOST]),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), [Reason.EVICTED]),
        (pod(phase="Failed", reason="NodeLost"), [Reason.NODE_LOST]),
        (pod(phase="Unknown"), [Reason.NODE_LOST]),
        (container(state={"waiting": {"reason": "ContainerCreating"}}), []),
        (container(state={"waiting": {"reason": "ErrImagePull"}}), [Reason.IMAGE_PULL_FAILED]),
        (container(state={"waiting": {"reason": "InvalidImageName"}}), [Reason.IMAGE_PULL_FAILED]),
        (container(state={"waiting": {"reason": "CreateContainerConfigError"}}), [Reason.CONTAINER_CONFIG_ERROR]),
        (container(state=ended(0, "Completed")), []),
        (container(state=ended(1)), [Reason.CONTAINER_FAILED]),
        (container(state=ended(3)), [Reason.INVALID_SPEC]),
        (container(state=ended(137, "OOMKilled")), [Reason.OUT_OF_MEMORY]),
        (container(state={"running": {}}, lastState=ended(137, "OOMKilled")), [Reason.OUT_OF_MEMORY]),
        (
            container(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended(1)),
            [Reason.CONTAINER_FAILED],
        ),
    ],
)
def test_a_pod_is_classified(body: dict[str, Any], reasons: list[Reason]) -> None:
    assert [trouble.reason for trouble in classify_pod(body)] == reasons


def test_the_message_names_pod_container_and_image() -> None:
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such tag"}}
    (trouble,) = classify_pod(container(state=waiting))
    assert trouble.message == "pod job-hybrid-0-x: container trainer, image t:1: no such tag"
    assert trouble.blocks
    assert trouble.ended_at is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1', Reason.QUOTA_EXCEEDED),
        ('pods "x" is forbidden: failed quota: q: must specify limits.cpu', Reason.QUOTA_EXCEEDED),
        ('pods "x" is forbidden: minimum cpu usage per Container is 1', Reason.QUOTA_EXCEEDED),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', Reason.REFUSED),
    ],
)
def test_a_refusal_is_classified(message: str, reason: Reason) -> None:
    assert classify_refusal(message).reason is reason
