"""Starting hybrid and master pods together or not at all: what Kueue, Volcano and coscheduling want to see."""

from tandem_core.job import RLJob

from tandem_operator.build.names import Component, build_object
from tandem_operator.build.settings import KubernetesObject

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
VOLCANO_ANNOTATION = "scheduling.k8s.io/group-name"
COSCHEDULING_LABEL = "scheduling.x-k8s.io/pod-group"
SCHEDULERS = {"volcano": "volcano", "coscheduling": "scheduler-plugins-scheduler"}
"""schedulerName of the pods: as both are named by their own charts; spec.pods and the installation's overlay win."""


def build_pod_group(job: RLJob) -> KubernetesObject | None:
    """The PodGroup of all hybrid pods and the master; None: the job's gang needs none."""
    scheduling = job.spec.scheduling
    spec: KubernetesObject = {"minMember": job.spec.hybrid.replicas + 1}
    if scheduling.gang == "coscheduling":
        return {**build_object(job, "scheduling.x-k8s.io/v1alpha1", "PodGroup", job.metadata.name), "spec": spec}
    if scheduling.gang != "volcano":
        return None
    if scheduling.queue is not None:
        spec["queue"] = scheduling.queue
    if scheduling.priority_class is not None:
        spec["priorityClassName"] = scheduling.priority_class
    return {**build_object(job, "scheduling.volcano.sh/v1beta1", "PodGroup", job.metadata.name), "spec": spec}


def join_gang(job: RLJob, component: Component, template: KubernetesObject) -> None:
    """Make the pods of `template` members of the job's PodGroup. Inference pods come and go by themselves."""
    gang = job.spec.scheduling.gang
    if component is Component.INFERENCE or gang not in SCHEDULERS:
        return
    template["spec"]["schedulerName"] = SCHEDULERS[gang]
    if gang == "volcano":
        template["metadata"]["annotations"] = {VOLCANO_ANNOTATION: job.metadata.name}
    else:
        template["metadata"]["labels"][COSCHEDULING_LABEL] = job.metadata.name


def enter_queue(job: RLJob, component: Component, owner: KubernetesObject) -> None:
    """Leave it to Kueue when the hybrid pods' Job starts: a field that is not sent is a field that is not owned."""
    scheduling = job.spec.scheduling
    if scheduling.gang != "kueue" or component is not Component.HYBRID:
        return
    owner["metadata"]["labels"][QUEUE_LABEL] = scheduling.queue
    if not job.spec.suspend:
        del owner["spec"]["suspend"]
