"""From the Kubernetes objects of a job to what is started on this machine. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tandem_local.container_environment import PodIdentity, build_environment
from tandem_local.kubernetes_values import KubernetesObject, ObjectIndex, expand_references
from tandem_local.places import Places
from tandem_local.probe_specs import Check, Probe, parse_check, parse_probe
from tandem_local.restart_policy import ContainerKind, FailureRule, RestartRule
from tandem_local.volumes import LocalVolume, PodPlace, build_mounts, build_volume, translate_path

_DEFAULT_GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class LocalContainer:
    """A process to run, with paths of this machine."""

    name: str
    kind: ContainerKind
    command: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: str | None = None
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    before_stop: Check | None = None
    """Done before SIGTERM."""


@dataclass(frozen=True)
class LocalPod:
    """Containers that share an address and volumes."""

    name: str
    workload: str
    number: int
    """The pod's number in the run; gives its address."""
    address: str
    containers: tuple[LocalContainer, ...]
    """In the order of their start: init and sidecar containers as they stand, then the main ones."""
    volumes: tuple[LocalVolume, ...]
    restart_rule: RestartRule
    grace_seconds: float = _DEFAULT_GRACE_SECONDS
    devices: int = 0
    """GPUs that all its containers see."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalWorkload:
    """The pods of a Job or Deployment."""

    name: str
    pods: tuple[LocalPod, ...]
    limit: int | None = None
    """Restarts before the Job counts as failed; None: a Deployment, which is never done."""
    failure_rules: tuple[FailureRule, ...] = ()
    replicas: int | None = None
    """How many of the pods run at first, if that may change; None: all, always."""

    @property
    def is_job(self) -> bool:
        """Whether it ends by itself."""
        return self.limit is not None


def build_workloads(
    objects: Sequence[KubernetesObject], places: Places, *, first_number: int = 1
) -> list[LocalWorkload]:
    """Everything to run for these objects; pods are numbered from `first_number` on.

    Pods of a Job are named <job>-<completion index>, those of a Deployment <deployment>-<i>. Suspended Jobs have no
    pods. Raises UnsupportedObject for what one machine has no counterpart of.
    """
    index = ObjectIndex.of(objects)
    workloads: list[LocalWorkload] = []
    number = first_number
    for item in objects:
        spec: dict[str, Any] = item.get("spec", {})
        if item["kind"] == "Job":
            count = 0 if spec.get("suspend") else int(spec.get("completions", spec.get("parallelism", 1)))
            limit, rules = int(spec.get("backoffLimit", 6)), _failure_rules(spec)
        elif item["kind"] == "Deployment":
            count, limit, rules = int(spec.get("replicas", 1)), None, ()
        else:
            continue
        pods = tuple(_build_pod(item, ordinal, number + ordinal, places, index) for ordinal in range(count))
        number += count
        workloads.append(LocalWorkload(item["metadata"]["name"], pods, limit, rules))
    return workloads


def _build_pod(owner: KubernetesObject, ordinal: int, number: int, places: Places, index: ObjectIndex) -> LocalPod:
    template = owner["spec"]["template"]
    spec: dict[str, Any] = template["spec"]
    name = f"{owner['metadata']['name']}-{ordinal}"
    identity = _identity(owner, name, ordinal, places.address(number))
    place = PodPlace(places, name, number)
    containers = [(item, _init_kind(item)) for item in spec.get("initContainers", [])]
    containers += [(item, ContainerKind.MAIN) for item in spec["containers"]]
    at_tmp = {
        mount["name"]
        for item, _ in containers
        for mount in item.get("volumeMounts", [])
        if mount["mountPath"].rstrip("/") == "/tmp"  # noqa: S108 - a path in the container
    }
    volumes = {item["name"]: build_volume(item, at_tmp, place, index) for item in spec.get("volumes", [])}
    return LocalPod(
        name=name,
        workload=owner["metadata"]["name"],
        number=number,
        address=identity.address,
        containers=tuple(_build_container(item, kind, identity, volumes, index) for item, kind in containers),
        volumes=tuple(volumes.values()),
        restart_rule=RestartRule(spec.get("restartPolicy", "Always")),
        grace_seconds=float(spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS)),
        devices=_count_devices(spec, index),
        labels=identity.labels,
    )


def _build_container(
    item: KubernetesObject,
    kind: ContainerKind,
    identity: PodIdentity,
    volumes: Mapping[str, LocalVolume],
    index: ObjectIndex,
) -> LocalContainer:
    # References are replaced before paths are translated, so that no path is translated twice.
    values = build_environment(item, identity, index)
    mounts = build_mounts(item, volumes)
    ports = item.get("ports", [])
    command = [expand_references(str(text), values) for text in [*item.get("command", []), *item.get("args", [])]]
    directory = item.get("workingDir")
    before_stop = item.get("lifecycle", {}).get("preStop")
    return LocalContainer(
        name=item["name"],
        kind=kind,
        command=tuple(translate_path(text, mounts) for text in command),
        environment={name: translate_path(value, mounts) for name, value in values.items()},
        working_directory=translate_path(directory, mounts) if directory else None,
        startup=parse_probe(item.get("startupProbe"), ports, identity.address),
        readiness=parse_probe(item.get("readinessProbe"), ports, identity.address),
        liveness=parse_probe(item.get("livenessProbe"), ports, identity.address),
        before_stop=parse_check(before_stop, ports, identity.address) if before_stop else None,
    )


def _identity(owner: KubernetesObject, name: str, ordinal: int, address: str) -> PodIdentity:
    metadata = owner["spec"]["template"].get("metadata", {})
    labels, annotations = dict(metadata.get("labels", {})), dict(metadata.get("annotations", {}))
    if owner["kind"] == "Job":
        labels |= {
            "batch.kubernetes.io/job-name": owner["metadata"]["name"],
            "batch.kubernetes.io/job-completion-index": str(ordinal),
        }
        annotations["batch.kubernetes.io/job-completion-index"] = str(ordinal)
    namespace = owner["metadata"].get("namespace", "default")
    return PodIdentity(name, namespace, f"{name}-uid", address, labels, annotations)


def _init_kind(container: KubernetesObject) -> ContainerKind:
    return ContainerKind.SIDECAR if container.get("restartPolicy") == "Always" else ContainerKind.INIT


def _failure_rules(job: Mapping[str, Any]) -> tuple[FailureRule, ...]:
    rules = job.get("podFailurePolicy", {}).get("rules", [])
    return tuple(
        FailureRule(
            action=rule["action"],
            values=frozenset(rule["onExitCodes"]["values"]),
            container=rule["onExitCodes"].get("containerName"),
            operator=rule["onExitCodes"]["operator"],
        )
        for rule in rules
        if "onExitCodes" in rule
    )


def _count_devices(spec: Mapping[str, Any], index: ObjectIndex) -> int:
    """GPUs by the pod's claim templates, else by its containers' nvidia.com/gpu limits."""
    claimed = 0
    for claim in spec.get("resourceClaims", []):
        template = index.objects.get(("ResourceClaimTemplate", claim.get("resourceClaimTemplateName", "")), {})
        for request in template.get("spec", {}).get("spec", {}).get("devices", {}).get("requests", []):
            claimed += int(request.get("exactly", request).get("count", 1))
    limits = [
        int(item.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))
        for item in [*spec.get("initContainers", []), *spec["containers"]]
    ]
    return claimed or max(limits)
