"""Names, labels and owners of a job's objects."""

from enum import StrEnum

from tandem_core.job import API_VERSION, RLJob

from tandem_operator.build.settings import KubernetesObject

JOB_LABEL = "tandem.dev/job"
COMPONENT_LABEL = "app.kubernetes.io/component"


class Component(StrEnum):
    """A kind of pod."""

    HYBRID = "hybrid"
    MASTER = "master"
    INFERENCE = "inference"


def component_name(job: RLJob, component: Component) -> str:
    """Name of the Job, Deployment or ResourceClaimTemplate behind a kind of pod."""
    return f"{job.metadata.name}-{component}"


def config_name(job: RLJob) -> str:
    """Name of the ConfigMap with the resolved job."""
    return f"{job.metadata.name}-job"


def token_name(job: RLJob) -> str:
    """Name of the Secret with the job's token."""
    return f"{job.metadata.name}-token"


def etcd_access_name(job: RLJob) -> str:
    """Name of the Secret with what the job's pods show to etcd."""
    return f"{job.metadata.name}-etcd"


def certificate_name(job: RLJob) -> str:
    """Name of the Secret with the certificate that the job's parts show each other."""
    return f"{job.metadata.name}-tls"


def certificate_host(job: RLJob) -> str:
    """The name in that certificate, for those who check names, as Prometheus does."""
    return f"{job.metadata.name}.{job.metadata.namespace}.svc"


def checkpoint_claim_name(job: RLJob) -> str:
    """Name of the PersistentVolumeClaim for checkpoints: the user's, or the job's own."""
    return job.spec.checkpoint.claim or f"{job.metadata.name}-checkpoints"


def data_claim_name(job: RLJob) -> str:
    """Name of the PersistentVolumeClaim for the SQLite replay buffer."""
    return f"{job.metadata.name}-data"


def job_selector(job: RLJob) -> dict[str, str]:
    """Labels that all pods of the job have, and no others."""
    return {"app.kubernetes.io/name": "tandem", JOB_LABEL: job.metadata.name}


def component_selector(job: RLJob, component: Component) -> dict[str, str]:
    """Labels that all pods of one kind have."""
    return {**job_selector(job), COMPONENT_LABEL: component.value}


def build_labels(job: RLJob, component: Component | None = None) -> dict[str, str]:
    """All labels of an object. No version among them: it would change pod templates, which Jobs never allow."""
    selector = job_selector(job) if component is None else component_selector(job, component)
    return {
        **selector,
        "app.kubernetes.io/instance": job.metadata.name,
        "app.kubernetes.io/managed-by": "tandem-operator",
        "app.kubernetes.io/part-of": "tandem",
    }


def job_identifier(job: RLJob) -> str:
    """What the job's prefix in etcd is named by: its uid, or namespace and name where it has none yet."""
    return job.metadata.uid or f"{job.metadata.namespace}.{job.metadata.name}"


def build_object(
    job: RLJob, api_version: str, kind: str, name: str, component: Component | None = None
) -> KubernetesObject:
    """The head of an object that is owned by the job: Kubernetes deletes it with the job.

    A job without a uid is not in Kubernetes and owns nothing: its objects can be applied by hand.
    """
    metadata: KubernetesObject = {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": build_labels(job, component),
    }
    if job.metadata.uid:
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": "RLJob",
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
