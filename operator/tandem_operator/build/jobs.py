"""Indexed Jobs: pods with stable host names that are replaced when they fail, until they succeed."""

from tandem_core.environment import EXIT_FOR_GOOD
from tandem_core.job import RLJob

from tandem_operator.build.gang import enter_queue
from tandem_operator.build.names import Component, build_object, component_name
from tandem_operator.build.settings import KubernetesObject


def build_indexed_job(
    job: RLJob, component: Component, *, completions: int, main_container: str, template: KubernetesObject
) -> KubernetesObject:
    """The Job behind a kind of pod.

    Exit code 3 of `main_container` fails it at once; evictions and preemptions do not count against
    spec.backoffLimit. A failed pod is gone before its successor starts, for they would share a name.
    """
    spec: KubernetesObject = {
        "completionMode": "Indexed",
        "completions": completions,
        "parallelism": completions,
        "backoffLimit": job.spec.backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": main_container,
                        "operator": "In",
                        "values": [EXIT_FOR_GOOD],
                    },
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "suspend": job.spec.suspend,
        "template": template,
    }
    built = {**build_object(job, "batch/v1", "Job", component_name(job, component), component), "spec": spec}
    enter_queue(job, component, built)
    return built
