"""What the operator asks of a job through etcd."""

from tandem_core.coordination.records import Control
from tandem_core.job import RLJob

from tandem_operator.plan.stage import Stage

REASONS = {Stage.SUSPENDING: "suspended", Stage.SUSPENDED: "suspended", Stage.STOPPING: "deleted"}
"""Why a job is asked to stop; part of the reason that its last phase shows."""


def plan_control(job: RLJob, stage: Stage, draining: tuple[str, ...], *, pods_wait: bool) -> Control:
    """The record as it is to be: what can change while the job runs, and whether it is to go on."""
    return Control(
        stop=stage in REASONS,
        reason=REASONS.get(stage, ""),
        iterations=job.spec.iterations,
        deadlines=job.spec.deadlines,
        draining=draining,
        pods_wait=pods_wait,
    )
