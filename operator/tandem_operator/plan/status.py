"""The status of a job."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tandem_core.coordination.records import Summary
from tandem_core.job import RLJobStatus
from tandem_core.job.status import WaitingPhase
from tandem_core.phases import Phase

from tandem_operator.build import Component
from tandem_operator.build.names import component_selector
from tandem_operator.observe.observed import Observed
from tandem_operator.plan.conditions import plan_conditions
from tandem_operator.plan.failures import Trouble
from tandem_operator.plan.job import Plan
from tandem_operator.plan.stage import Stage


def plan_status(observed: Observed, plan: Plan, troubles: Sequence[Trouble], now: datetime) -> RLJobStatus:
    """What is to be told about the job; what is not known now stays as it was told."""
    records = observed.records
    now = now.replace(microsecond=0)
    return observed.status.model_copy(
        update={
            **(_progress(records.summary) if records is not None and records.summary is not None else {}),
            **_counts(observed, plan),
            **_times(observed, plan, now),
            "phase": _phase(observed, plan),
            "last_scale_time": now if plan.scale.changed else observed.last_scale_time,
            "failures": (observed.status.failures or 0) + observed.losses,
            "message": _message(observed, plan, troubles) or None,
            "observed_generation": observed.generation,
            "conditions": plan_conditions(observed, plan, troubles, now),
        }
    )


def _progress(summary: Summary) -> dict[str, Any]:
    """What the master tells."""
    told = {
        "iteration": summary.iteration,
        "weight_version": summary.version if summary.version >= 0 else None,
        "samples": summary.samples,
        "reward": summary.reward_average,
        "accuracy": summary.accuracy,
        "tokens_per_second": summary.tokens_per_second,
        "train_to_infer_seconds": summary.train_to_infer_seconds,
        "infer_to_train_seconds": summary.infer_to_train_seconds,
    }
    return {name: _shorten(value) for name, value in told.items() if value is not None}


def _counts(observed: Observed, plan: Plan) -> dict[str, Any]:
    hybrid, inference = (observed.pods_of(kind) for kind in (Component.HYBRID, Component.INFERENCE))
    job = observed.job
    wanted = job.spec.hybrid.replicas if job is not None and plan.stage is Stage.RUNNING else 0
    ready = sum(pod.ready for pod in hybrid)
    counts: dict[str, Any] = {
        "hybrid_replicas": wanted,
        "hybrid_ready": ready,
        "hybrid": f"{ready}/{wanted}",
        "inference_replicas": sum(not pod.ended for pod in inference),
        "inference_ready": sum(pod.ready for pod in inference),
    }
    if job is not None:
        labels = component_selector(job, Component.INFERENCE)
        counts["inference_selector"] = ",".join(f"{name}={value}" for name, value in labels.items())
    return counts


def _times(observed: Observed, plan: Plan, now: datetime) -> dict[str, datetime | None]:
    status = observed.status
    begins = plan.stage is Stage.RUNNING
    stops = observed.job is not None and observed.job.spec.suspend and plan.ending is None
    return {
        "start_time": status.start_time or (now if begins else None),
        "stop_requested_time": (status.stop_requested_time or now) if stops else None,
        "completion_time": status.completion_time or (now if plan.ending is not None else None),
    }


def _phase(observed: Observed, plan: Plan) -> WaitingPhase | Phase:
    if plan.ending is not None:
        return Phase.DONE if plan.ending.complete else Phase.FAILED
    if plan.stage is Stage.SUSPENDED and not observed.pods:
        return WaitingPhase.SUSPENDED
    records = observed.records
    if records is None:
        return observed.status.phase or WaitingPhase.PENDING
    if observed.forgotten:
        return WaitingPhase.PENDING
    if plan.stage is Stage.RESUMING or records.phase is None:
        # Suspended until its records are cleared: without etcd it would not be known later that they have to be.
        return WaitingPhase.SUSPENDED if plan.stage is Stage.RESUMING else WaitingPhase.PENDING
    return records.phase.phase


def _message(observed: Observed, plan: Plan, troubles: Sequence[Trouble]) -> str:
    if plan.problem:
        return plan.problem
    if plan.ending is not None:
        return plan.ending.message
    if plan.stage is Stage.SUSPENDED:
        return ""
    if troubles:
        return troubles[0].message
    summary = observed.records.summary if observed.records is not None else None
    return summary.message if summary is not None and plan.stage is Stage.RUNNING else ""


def _shorten(value: float | int) -> float | int:
    """Six digits: more would be a new status at every tick, and nobody reads them."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
