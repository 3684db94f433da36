"""PersistentVolumeClaims that a job makes for itself."""

from tandem_core.job import RLJob

from tandem_operator.build.names import build_object, checkpoint_claim_name, data_claim_name
from tandem_operator.build.settings import KubernetesObject


def build_checkpoint_claim(job: RLJob) -> KubernetesObject:
    """The claim for checkpoints and the trained model; several hybrid pods share it."""
    checkpoint = job.spec.checkpoint
    access = "ReadWriteMany" if job.spec.hybrid.replicas > 1 else "ReadWriteOnce"
    return _build_claim(job, checkpoint_claim_name(job), access, checkpoint.size, checkpoint.storage_class)


def build_data_claim(job: RLJob) -> KubernetesObject:
    """The claim for the master's SQLite file."""
    storage = job.spec.storage
    return _build_claim(job, data_claim_name(job), "ReadWriteOnce", storage.size, storage.storage_class)


def _build_claim(job: RLJob, name: str, access: str, size: str, storage_class: str | None) -> KubernetesObject:
    spec: KubernetesObject = {"accessModes": [access], "resources": {"requests": {"storage": size}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {**build_object(job, "v1", "PersistentVolumeClaim", name), "spec": spec}
