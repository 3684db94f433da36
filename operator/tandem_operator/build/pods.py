"""What all pods of a job share: environment, volumes, security, probes, and the overlay on top."""

from math import ceil

from tandem_core.job import RLJob

from tandem_operator.build.gang import join_gang
from tandem_operator.build.names import (
    Component,
    build_labels,
    certificate_name,
    checkpoint_claim_name,
    config_name,
    data_claim_name,
    etcd_access_name,
    job_identifier,
    token_name,
)
from tandem_operator.build.overlay import apply_overlay
from tandem_operator.build.settings import BuildSettings, KubernetesObject

JOB_DIRECTORY = "/etc/tandem/job"
JOB_FILE_NAME = "job.yaml"
TOKEN_DIRECTORY = "/etc/tandem/secret"  # noqa: S105 - where the token is mounted
TOKEN_FILE_NAME = "token"  # noqa: S105
ETCD_DIRECTORY = "/etc/tandem/etcd"
TLS_DIRECTORY = "/etc/tandem/tls"
SHM_DIRECTORY = "/dev/shm"  # noqa: S108 - the pod's own, memory-backed
CACHE_DIRECTORY = "/var/cache/tandem"
CHECKPOINT_DIRECTORY = "/var/lib/tandem/checkpoints"
DATA_DIRECTORY = "/var/lib/tandem/data"

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
USER_ID = 1000
HANGING_GRACE_SECONDS = 5
"""From SIGTERM to SIGKILL for a container whose liveness probe failed, instead of its pod's time."""


def build_environment(job: RLJob, settings: BuildSettings, component: Component) -> list[KubernetesObject]:
    """All TANDEM_* variables of `tandem_core.environment.PodEnvironment`, and what a read-only root needs.

    A pod of an Indexed Job gets the name that stays when the pod is replaced (<job>-hybrid-<index>), which is also
    its host name; the pod object's own name ends in random letters. JOB_COMPLETION_INDEX is named here because a
    variable can only be used by those that follow it; the Job controller then leaves it as it is.
    """
    if component is Component.INFERENCE:
        name = [{"name": "TANDEM_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    else:
        field = f"metadata.annotations['{INDEX_ANNOTATION}']"
        value = f"{job.metadata.name}-{component}-$({INDEX_VARIABLE})"
        name = [
            {"name": INDEX_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": field}}},
            {"name": "TANDEM_POD_NAME", "value": value},
        ]
    literal = {
        "TANDEM_JOB_FILE": f"{JOB_DIRECTORY}/{JOB_FILE_NAME}",
        "TANDEM_JOB_UID": job_identifier(job),
        "TANDEM_ETCD_ENDPOINTS": settings.etcd_endpoints,
        **({"TANDEM_ETCD_DIR": ETCD_DIRECTORY} if settings.etcd_files else {}),
        "TANDEM_TOKEN_FILE": f"{TOKEN_DIRECTORY}/{TOKEN_FILE_NAME}",
        **({"TANDEM_TLS_DIR": TLS_DIRECTORY} if job.spec.security.tls else {}),
        "TANDEM_SHM_DIR": f"{SHM_DIRECTORY}/tandem",
        "TANDEM_MODEL_DIR": f"{CACHE_DIRECTORY}/model",
        "TANDEM_CHECKPOINT_DIR": CHECKPOINT_DIRECTORY,
        "TANDEM_DATA_DIR": DATA_DIRECTORY,
        # Libraries look for a home and a user name that an image need not have for this uid.
        "HOME": "/tmp",  # noqa: S108 - an emptyDir
        "USER": "tandem",
        "HF_HOME": f"{CACHE_DIRECTORY}/huggingface",
        "XDG_CACHE_HOME": CACHE_DIRECTORY,
    }
    return [
        *name,
        {"name": "TANDEM_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *({"name": key, "value": text} for key, text in literal.items()),
    ]


def build_container(
    job: RLJob, settings: BuildSettings, component: Component, name: str, image: str, command: list[str]
) -> KubernetesObject:
    """A container as every pod has it; the caller adds probes, ports, mounts and devices."""
    mounts = [
        {"name": "job", "mountPath": JOB_DIRECTORY, "readOnly": True},
        {"name": "token", "mountPath": TOKEN_DIRECTORY, "readOnly": True},
        {"name": "shm", "mountPath": SHM_DIRECTORY},
        {"name": "cache", "mountPath": CACHE_DIRECTORY},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir
    ]
    if settings.etcd_files:
        mounts.append({"name": "etcd", "mountPath": ETCD_DIRECTORY, "readOnly": True})
    if job.spec.security.tls:
        mounts.append({"name": "tls", "mountPath": TLS_DIRECTORY, "readOnly": True})
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": job.spec.images.pull_policy,
        "command": command,
        "env": build_environment(job, settings, component),
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def build_volumes(job: RLJob, settings: BuildSettings) -> list[KubernetesObject]:
    """The volumes behind `build_container`'s mounts."""
    volumes: list[KubernetesObject] = [
        {"name": "job", "configMap": {"name": config_name(job)}},
        {"name": "token", "secret": {"secretName": token_name(job), "defaultMode": 0o440}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": job.spec.hybrid.shared_memory}},
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if settings.etcd_files:
        volumes.append({"name": "etcd", "secret": {"secretName": etcd_access_name(job), "defaultMode": 0o440}})
    if job.spec.security.tls:
        volumes.append({"name": "tls", "secret": {"secretName": certificate_name(job), "defaultMode": 0o440}})
    return volumes


def mount_checkpoints(job: RLJob, spec: KubernetesObject, container: KubernetesObject) -> None:
    """Give `container` of the pod `spec` the checkpoints."""
    spec["volumes"].append({"name": "checkpoints", "persistentVolumeClaim": {"claimName": checkpoint_claim_name(job)}})
    container["volumeMounts"].append({"name": "checkpoints", "mountPath": CHECKPOINT_DIRECTORY})


def mount_data(job: RLJob, spec: KubernetesObject, container: KubernetesObject) -> None:
    """Give `container` of the pod `spec` the replay buffer's directory: on a volume of its own for SQLite."""
    source = (
        {"persistentVolumeClaim": {"claimName": data_claim_name(job)}}
        if job.spec.storage.kind == "sqlite"
        else {"emptyDir": {}}
    )
    spec["volumes"].append({"name": "data", **source})
    container["volumeMounts"].append({"name": "data", "mountPath": DATA_DIRECTORY})


def build_template(
    job: RLJob, settings: BuildSettings, component: Component, spec: KubernetesObject
) -> KubernetesObject:
    """A PodTemplateSpec that the "restricted" pod security standard admits, with the overlays merged in.

    The installation's overlay comes first, then the job's own.
    """
    shared: KubernetesObject = {
        "serviceAccountName": job.metadata.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if job.spec.scheduling.priority_class is not None:
        shared["priorityClassName"] = job.spec.scheduling.priority_class
    template = {"metadata": {"labels": build_labels(job, component)}, "spec": {**shared, **spec}}
    join_gang(job, component, template)
    template = apply_overlay(template, settings.pod_overlay, place="pod_overlay of the operator's settings")
    return apply_overlay(template, getattr(job.spec.pods, component), place=f"spec.pods.{component}")


def build_life_probes(job: RLJob, port: int) -> KubernetesObject:
    """startupProbe and livenessProbe of a server whose /healthz says no more than that its process runs.

    What has not answered for 15 s hangs: the answer takes milliseconds, also on a busy machine. It cannot end in
    order any more, so that it gets no time for that.
    """
    return {
        "startupProbe": build_probe(job, "/healthz", port, period_seconds=1, failures=ceil(job.spec.deadlines.startup)),
        "livenessProbe": {
            **build_probe(job, "/healthz", port, period_seconds=5, failures=3),
            "terminationGracePeriodSeconds": HANGING_GRACE_SECONDS,
        },
    }


def build_probe(job: RLJob, path: str, port: int, *, period_seconds: int, failures: int) -> KubernetesObject:
    """An HTTP probe that gives up after `failures` attempts, `period_seconds` apart."""
    encrypted = {"scheme": "HTTPS"} if job.spec.security.tls else {}
    return {
        "httpGet": {"path": path, "port": port, **encrypted},
        "periodSeconds": period_seconds,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }
