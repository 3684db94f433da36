"""When a job is to be looked at again though nothing has happened."""

from collections.abc import Sequence
from datetime import datetime

from tandem_operator.observe.observed import Observed
from tandem_operator.plan.failures import Trouble
from tandem_operator.plan.job import Plan
from tandem_operator.plan.objects import waits_for_queue
from tandem_operator.plan.stage import Stage
from tandem_operator.plan.troubles import next_change

READS_PER_SECOND = 200
"""Most times in a second that jobs are looked at without any news."""
BUSY_SECONDS = 1.0
IDLE_SECONDS = 30.0
"""For a job without a pod that is at work: nobody writes its records."""
STEP_SECONDS = 1.0
"""While a job stops or begins anew, which etcd tells of."""
REMOVAL_SECONDS = 5.0
"""While a job's pods go, of which a watch tells."""


def plan_pace(
    observed: Observed, plan: Plan, troubles: Sequence[Trouble], wait: float | None, now: datetime, *, jobs: int
) -> float | None:
    """Seconds until then; None: only when something happens. `wait`: until the status may be written again."""
    step = _step(observed, plan)
    times = [wait, step and max(step, jobs / READS_PER_SECOND), next_change(troubles, now)]
    if plan.expires_at is not None and wait is None:  # its end has to be told first
        times.append(max(0.0, (plan.expires_at - now).total_seconds()))
    return min((time for time in times if time is not None), default=None)


def _step(observed: Observed, plan: Plan) -> float | None:
    match plan.stage:
        case Stage.FINISHED | Stage.INVALID:
            return None
        case Stage.RUNNING:
            if observed.records is None:
                return 5 * STEP_SECONDS
            if observed.job is not None and waits_for_queue(observed, observed.job):
                return STEP_SECONDS
            at_work = observed.records.begun or any(pod.ready for pod in observed.pods)
            return BUSY_SECONDS if at_work else IDLE_SECONDS
        case Stage.SUSPENDED:
            return STEP_SECONDS if observed.pods else None
        case Stage.REMOVING:
            return REMOVAL_SECONDS
        case _:
            return STEP_SECONDS
