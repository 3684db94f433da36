"""The kinds of Kubernetes objects that the operator watches and writes: one table for watches, URLs and roles."""

from dataclasses import dataclass
from typing import NamedTuple

from tandem_core.job import API_GROUP, API_VERSION

from tandem_operator.build import KubernetesObject

FIELD_MANAGER = "tandem-operator"
"""Under this name the operator applies; fields of others stay theirs."""
FINALIZER = f"{API_GROUP}/etcd"
"""Keeps a deleted RLJob until its keys, user and role in etcd are gone."""
OWNED_SELECTOR = f"app.kubernetes.io/managed-by={FIELD_MANAGER}"
"""All objects of all jobs, their pods included."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object and where the API server keeps it."""

    api_version: str
    name: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version without its group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The path of its objects in `namespace`, of one of them, or of a subresource. No namespace: of the cluster."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        where = ("namespaces", namespace) if namespace else ()
        return "/".join(part for part in (root, *where, self.plural, name, subresource) if part)


RLJOB = Kind(API_VERSION, "RLJob", "rljobs")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
SECRET = Kind("v1", "Secret", "secrets")
JOB = Kind("batch/v1", "Job", "jobs")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
CLAIM_TEMPLATE = Kind("resource.k8s.io/v1", "ResourceClaimTemplate", "resourceclaimtemplates")
POD_MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors")

OWNED = (
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    Kind("v1", "ConfigMap", "configmaps"),
    SECRET,
    Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    Kind("v1", "Service", "services"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    CLAIM_TEMPLATE,
    JOB,
    DEPLOYMENT,
)
"""What every installation may make for a job."""
OPTIONAL = (
    POD_MONITOR,
    Kind("scheduling.volcano.sh/v1beta1", "PodGroup", "podgroups"),
    Kind("scheduling.x-k8s.io/v1alpha1", "PodGroup", "podgroups"),
)
"""What it may make where the cluster knows these kinds."""

WORKLOADS = frozenset({JOB, DEPLOYMENT})
"""What pods come from."""

_BY_NAME = {(kind.api_version, kind.name): kind for kind in (*OWNED, *OPTIONAL)}


class JobKey(NamedTuple):
    """Which RLJob."""

    namespace: str
    name: str


class ObjectKey(NamedTuple):
    """Which object in the namespace of its RLJob."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.name} {self.name}"


def object_key(item: KubernetesObject) -> ObjectKey:
    """The key of an object that a builder made; raises KeyError for a kind that is not in the table."""
    return ObjectKey(_BY_NAME[item["apiVersion"], item["kind"]], item["metadata"]["name"])
