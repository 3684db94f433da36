"""One job with all that is known of it: what plans are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, RLJobStatus
from tandem_core.job.load import check_job

from tandem_operator.build import Component, KubernetesObject
from tandem_operator.observe.children import Child
from tandem_operator.observe.pods import Pod
from tandem_operator.observe.records import Records
from tandem_operator.plan.failures import Trouble
from tandem_operator.resources import FINALIZER, JOB, JobKey, ObjectKey


@dataclass(frozen=True)
class Observed:
    """A job at one moment."""

    key: JobKey
    uid: str
    generation: int
    created_at: datetime
    deleted_at: datetime | None
    """When it was asked to go; None: it stays."""
    finalizers: tuple[str, ...]
    annotations: Mapping[str, str]
    job: RLJob | None
    """None: `problem` says why the specification cannot be read."""
    problem: str
    status: RLJobStatus
    """As last published; empty if it never was."""
    children: Mapping[ObjectKey, Child] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    refusals: Mapping[ObjectKey, Trouble] = field(default_factory=dict)
    records: Records | None = None
    """None: etcd does not answer, `etcd_problem` says how."""
    etcd_problem: str = ""
    last_scale_time: datetime | None = None
    """When the number of inference pods, or which of them are to go, last changed."""
    losses: int = 0
    """Pods lost since the status was published."""

    @property
    def protected(self) -> bool:
        """Whether the finalizer is on the job."""
        return FINALIZER in self.finalizers

    @property
    def own(self) -> dict[ObjectKey, Child]:
        """The objects that this very job owns, not one of the same name before it."""
        return {key: child for key, child in self.children.items() if child.owner == self.uid}

    @property
    def strangers(self) -> dict[ObjectKey, Child]:
        """Objects with the job's label that it does not own."""
        return {key: child for key, child in self.children.items() if child.owner != self.uid}

    def workload(self, component: Component) -> Child | None:
        """The Job behind a kind of pod, if this job has made it."""
        return self.own.get(ObjectKey(JOB, f"{self.key.name}-{component}"))

    @property
    def jobs(self) -> tuple[Child, ...]:
        """The Jobs of hybrid pods and master."""
        return tuple(child for key, child in self.own.items() if key.kind is JOB)

    def pods_of(self, component: Component) -> tuple[Pod, ...]:
        """Pods of one kind."""
        return tuple(pod for pod in self.pods if pod.component == component)

    @property
    def forgotten(self) -> bool:
        """Whether etcd has lost what it knew of the job: the record that is there before any of the job's pods."""
        return self.records is not None and self.records.control is None and bool(self.jobs)

    @property
    def working_pods(self) -> tuple[Pod, ...]:
        """Hybrid and master pods that have not ended: they have something to save."""
        return tuple(pod for pod in self.pods if not pod.ended and not pod.inference)


def parse_status(body: KubernetesObject) -> RLJobStatus:
    """The status as it stands; empty where it cannot be read, so that it is written anew."""
    try:
        return RLJobStatus.model_validate(body.get("status") or {})
    except ValidationError:
        return RLJobStatus()


def parse_spec(body: KubernetesObject) -> tuple[RLJob | None, str]:
    """The job without its status, or what is wrong with it."""
    try:
        return check_job({name: value for name, value in body.items() if name != "status"}), ""
    except TandemError as error:
        return None, str(error)
