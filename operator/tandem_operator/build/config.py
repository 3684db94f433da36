"""What the pods are told and who they are: ConfigMap, Secret and ServiceAccount."""

import base64
from collections.abc import Mapping

from tandem_core.job import RLJob, dump_job

from tandem_operator.build.names import build_object, certificate_name, config_name, etcd_access_name, token_name
from tandem_operator.build.pods import JOB_FILE_NAME, TOKEN_FILE_NAME
from tandem_operator.build.settings import KubernetesObject


def build_config_map(job: RLJob) -> KubernetesObject:
    """The resolved job, defaults written out; without what changes while it runs (status, generation, annotations)."""
    metadata = job.metadata.model_copy(update={"generation": 0, "labels": {}, "annotations": {}})
    resolved = job.model_copy(update={"metadata": metadata, "status": None})
    return {
        **build_object(job, "v1", "ConfigMap", config_name(job)),
        "data": {JOB_FILE_NAME: dump_job(resolved)},
    }


def build_token_secret(job: RLJob, token: str) -> KubernetesObject:
    """The bearer token of the job's HTTP APIs."""
    return _build_secret(job, token_name(job), {TOKEN_FILE_NAME: token})


def build_etcd_secret(job: RLJob, files: Mapping[str, str]) -> KubernetesObject:
    """What the job's pods show to etcd, by file name."""
    return _build_secret(job, etcd_access_name(job), files)


def build_certificate_secret(job: RLJob, files: Mapping[str, str]) -> KubernetesObject:
    """The certificate of the job's HTTP APIs, and its authority's, by file name."""
    return _build_secret(job, certificate_name(job), files)


def build_service_account(job: RLJob) -> KubernetesObject:
    """An account without rights: no pod of a job speaks to Kubernetes."""
    return {
        **build_object(job, "v1", "ServiceAccount", job.metadata.name),
        "automountServiceAccountToken": False,
    }


def _build_secret(job: RLJob, name: str, files: Mapping[str, str]) -> KubernetesObject:
    return {
        **build_object(job, "v1", "Secret", name),
        "type": "Opaque",
        "data": {file: base64.b64encode(content.encode()).decode() for file, content in sorted(files.items())},
    }
