"""Why pods do not start, or ended: a pure function from what Kubernetes says to the reasons of our conditions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from tandem_core.environment import EXIT_FOR_GOOD
from tandem_core.job.conditions import Reason

from tandem_operator.build import KubernetesObject

IMAGE_PROBLEMS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
"""Reasons for which a container waits: pkg/kubelet/images/types.go."""
CONFIG_PROBLEMS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
"""Reasons for which a container waits: pkg/kubelet/kuberuntime/kuberuntime_container.go."""
EVICTIONS = frozenset({"Evicted", "Preempting"})
NODE_PROBLEMS = frozenset({"NodeLost", "NodeShutdown", "Terminated", "NodeAffinity", "Shutdown"})
"""status.reason of pods whose node went away or turned them out as a whole."""
NODE_DISRUPTIONS = frozenset({"DeletionByTaintManager", "DeletionByPodGC"})
"""Reasons of DisruptionTarget that mean the node; all others mean that the pod had to make room."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong with a pod or its workload."""

    reason: Reason
    message: str
    blocks: bool
    """Whether the job cannot go on, or begin, as long as it lasts; else something was lost and is being replaced."""
    ended_at: datetime | None = None
    """When it was over; None: it lasts."""


def classify_pod(body: KubernetesObject) -> tuple[Trouble, ...]:
    """What is wrong with the pod, or was, the cause first; empty: nothing."""
    name, status = body["metadata"]["name"], body.get("status", {})
    found = (*_scheduling(status), *_disruption(status), *_containers(body))
    return tuple(replace(trouble, message=f"pod {name}: {trouble.message}") for trouble in found)


def classify_refusal(message: str) -> Trouble:
    """Why the API server lets a controller make no pod, or the operator no object, from its own words."""
    quota = "exceeded quota" in message or "failed quota" in message or "usage per" in message
    return Trouble(Reason.QUOTA_EXCEEDED if quota else Reason.REFUSED, message, blocks=True)


def _scheduling(status: KubernetesObject) -> Iterator[Trouble]:
    for condition in status.get("conditions", []):
        if condition["type"] != "PodScheduled" or condition["status"] == "True":
            continue
        message = condition.get("message", "")
        if condition.get("reason") == "SchedulingGated":
            yield Trouble(Reason.QUEUED, message or "waits for its queue", blocks=True)
        elif condition.get("reason"):
            yield Trouble(Reason.UNSCHEDULABLE, message or condition["reason"], blocks=True)


def _disruption(status: KubernetesObject) -> Iterator[Trouble]:
    reason, message = status.get("reason", ""), status.get("message", "")
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            why = condition.get("reason", "")
            kind = Reason.NODE_LOST if why in NODE_DISRUPTIONS else Reason.EVICTED
            yield Trouble(
                kind, condition.get("message") or message or why, False, _time(condition["lastTransitionTime"])
            )
            return
    if reason in EVICTIONS:
        yield Trouble(Reason.EVICTED, message or reason, False, _last_change(status))
    elif reason in NODE_PROBLEMS:
        yield Trouble(Reason.NODE_LOST, message or reason, False, _last_change(status))
    elif status.get("phase") == "Unknown":
        yield Trouble(Reason.NODE_LOST, message or "its node does not answer", blocks=False)


def _containers(body: KubernetesObject) -> Iterator[Trouble]:
    spec, status = body["spec"], body.get("status", {})
    images = {item["name"]: item.get("image", "") for item in (*spec.get("initContainers", []), *spec["containers"])}
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        name = container["name"]
        waiting = container.get("state", {}).get("waiting", {})
        why, message = waiting.get("reason", ""), waiting.get("message", "")
        if why in IMAGE_PROBLEMS:
            yield Trouble(
                Reason.IMAGE_PULL_FAILED, f"container {name}, image {images.get(name)}: {message or why}", True
            )
        elif why in CONFIG_PROBLEMS:
            yield Trouble(Reason.CONTAINER_CONFIG_ERROR, f"container {name}: {message or why}", True)
        yield from _ending(container)


def _ending(container: KubernetesObject) -> Iterator[Trouble]:
    """How the container last ended, if that was in an error."""
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
    if not ended or ended.get("exitCode", 0) == 0:
        return
    name, code, words = container["name"], ended["exitCode"], (ended.get("message") or "").strip()
    text = f"container {name} ended with exit code {code}" + (f": {words}" if words else "")
    at = _time(ended["finishedAt"]) if ended.get("finishedAt") else None
    if ended.get("reason") == "OOMKilled":
        yield Trouble(Reason.OUT_OF_MEMORY, f"container {name} was killed for want of memory", False, at)
    else:
        yield Trouble(Reason.INVALID_SPEC if code == EXIT_FOR_GOOD else Reason.CONTAINER_FAILED, text, False, at)


def _last_change(status: KubernetesObject) -> datetime | None:
    times = [item["lastTransitionTime"] for item in status.get("conditions", []) if item.get("lastTransitionTime")]
    return _time(max(times)) if times else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
