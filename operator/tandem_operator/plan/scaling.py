"""How many inference pods there are to be now, from what was observed."""

from dataclasses import dataclass
from datetime import datetime

from tandem_core.job import RLJob

from tandem_operator.build import Component
from tandem_operator.observe.observed import Observed
from tandem_operator.observe.pods import Pod
from tandem_operator.plan.autoscale import InferencePods, ReplicaPlan, plan_replicas
from tandem_operator.resources import DEPLOYMENT, ObjectKey

LEAVING_COST = -1000
"""Deletion cost of a pod that is to go: less than that of any other."""


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What is to become of the inference pods."""

    replicas: int | None = None
    """For the Deployment; None: as few as the specification allows."""
    draining: tuple[str, ...] = ()
    """Pods that get no more answers."""
    mark: tuple[Pod, ...] = ()
    """Those of them that the Deployment does not know yet as the first to go."""
    changed: bool = False
    """Whether this differs from what there is."""
    decision: str = ""
    """grow, shrink, drain or keep, for the metrics; empty: nothing was decided."""
    message: str = ""
    """For an Event, where the number differs."""


def plan_scale(observed: Observed, job: RLJob, now: datetime) -> ScalePlan:
    """The plan for a job that runs. Without etcd nothing changes."""
    deployment = observed.own.get(ObjectKey(DEPLOYMENT, f"{observed.key.name}-{Component.INFERENCE}"))
    if deployment is None or not job.spec.elastic.max:
        return ScalePlan()
    if observed.records is None:
        return ScalePlan(deployment.replicas)
    there = sorted(observed.pods_of(Component.INFERENCE), key=lambda pod: (pod.created_at, pod.name))
    pods = {pod.name: pod for pod in there if not pod.deleting and not pod.ended}
    control = observed.records.control
    current = InferencePods(
        replicas=deployment.replicas,
        pods=tuple(pods),
        ready=frozenset(name for name, pod in pods.items() if pod.ready),
        draining=control.draining if control is not None else (),
    )
    before = observed.last_scale_time
    plan = plan_replicas(
        job.spec.elastic,
        job.spec.hybrid.replicas,
        observed.records.load,
        current,
        before.timestamp() if before is not None else None,
        now.timestamp(),
    )
    moves = plan.replicas != current.replicas
    return ScalePlan(
        plan.replicas,
        plan.draining,
        tuple(pods[name] for name in plan.draining if name in pods and pods[name].deletion_cost > LEAVING_COST),
        moves or set(plan.draining) != set(current.draining),
        name_decision(current, plan),
        f"{current.replicas} -> {plan.replicas} inference pods: {plan.reason}" if moves else "",
    )


def name_decision(current: InferencePods, plan: ReplicaPlan) -> str:
    """What a plan does beside what there is: grow, shrink, drain, or keep pods that drained; empty: nothing."""
    if plan.replicas != current.replicas:
        return "grow" if plan.replicas > current.replicas else "shrink"
    if set(plan.draining) - set(current.draining):
        return "drain"
    # A pod that has gone drains no more, which nobody decided.
    return "keep" if set(current.draining) & set(current.pods) - set(plan.draining) else ""
