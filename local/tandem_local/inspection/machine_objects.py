"""From what a runner tells about its run to facts. Pure, but for whether its process lives."""

from datetime import UTC, datetime
from typing import Any

from tandem_core.coordination.records import Summary
from tandem_core.coordination.snapshot import JobSnapshot
from tandem_core.job import Condition, RLJobStatus
from tandem_core.job.conditions import ConditionType, Reason

from tandem_local.inspection.facts import ContainerFacts, JobFacts, PodFacts
from tandem_local.process_table import is_alive
from tandem_local.run_state import Condition as State
from tandem_local.run_state import ContainerState, PodState, RunState, RunStatus


def describe_run(state: RunState) -> JobFacts:
    """What a run's state tells."""
    summary = state.summary
    pods = tuple(_describe_pod(pod, state.job) for pod in state.pods)
    status = RLJobStatus(
        **(_describe_progress(summary) if summary is not None else {}),
        **_count_pods(pods),
        start_time=_time(state.started_at),
        completion_time=_time(state.ended_at) if state.ended_at is not None else None,
        message=state.reason or None,
        observed_generation=1,
        conditions=[_describe_condition(state)],
    )
    return JobFacts(
        name=state.job,
        place="this machine",
        status=status,
        created_at=state.started_at,
        pods=pods,
        snapshot=JobSnapshot(summary=summary) if summary is not None else None,
    )


def _describe_progress(summary: Summary) -> dict[str, Any]:
    return {
        "phase": summary.phase,
        "iteration": summary.iteration,
        "weight_version": summary.version if summary.version >= 0 else None,
        "samples": summary.samples,
        "reward": summary.reward_average,
        "accuracy": summary.accuracy,
        "tokens_per_second": summary.tokens_per_second,
        "train_to_infer_seconds": summary.train_to_infer_seconds,
        "infer_to_train_seconds": summary.infer_to_train_seconds,
    }


def _count_pods(pods: tuple[PodFacts, ...]) -> dict[str, Any]:
    hybrid = [pod for pod in pods if pod.component == "hybrid"]
    inference = [pod for pod in pods if pod.component == "inference"]
    ready = sum(pod.ready for pod in hybrid)
    return {
        "hybrid_replicas": len(hybrid),
        "hybrid_ready": ready,
        "hybrid": f"{ready}/{len(hybrid)}",
        "inference_replicas": len(inference),
        "inference_ready": sum(pod.ready for pod in inference),
    }


def _describe_condition(state: RunState) -> Condition:
    """A condition as the operator would write it."""
    lost = not state.status.final and not is_alive(state.runner)
    resume = "`tandem run FILE --resume` goes on where it was"
    kind, holds, reason, message = {
        RunStatus.SUCCEEDED: (ConditionType.COMPLETE, True, Reason.ITERATIONS_DONE, ""),
        RunStatus.FAILED: (ConditionType.FAILED, True, Reason.JOB_FAILED, state.reason),
        RunStatus.STOPPED: (ConditionType.PROGRESSING, False, "Stopped", resume),
        RunStatus.STARTING: (ConditionType.PROGRESSING, True, Reason.STARTING, ""),
        RunStatus.RUNNING: (ConditionType.PROGRESSING, True, Reason.RUNNING, ""),
        RunStatus.STOPPING: (ConditionType.PROGRESSING, True, "Stopping", ""),
    }[state.status]
    if lost:
        message = f"its runner has ended without a word; `tandem stop {state.job}` cleans up, then {resume}"
        kind, holds, reason = ConditionType.PROGRESSING, False, "Lost"
    return Condition(
        type=str(kind),
        status="True" if holds else "False",
        reason=str(reason),
        message=message,
        last_transition_time=_time(state.ended_at or state.started_at),
        observed_generation=1,
    )


def _describe_pod(pod: PodState, job: str) -> PodFacts:
    states = {
        State.RUNNING: "Running",
        State.STARTING: "Running",
        State.BACK_OFF: "Running",
        State.WAITING: "Pending",
        State.COMPLETED: "Succeeded",
        State.FAILED: "Failed",
        State.STOPPED: "Succeeded",
    }
    return PodFacts(
        name=pod.name,
        object_name=pod.name,
        component=pod.workload.removeprefix(f"{job}-"),
        state=states[pod.condition],
        ready=bool(pod.containers) and all(item.ready for item in pod.containers),
        node=pod.address,
        containers=tuple(_describe_container(item, pod.replaced) for item in pod.containers),
    )


def _describe_container(container: ContainerState, replaced: int) -> ContainerFacts:
    wrong = container.exit_code not in (None, 0) and container.condition is not State.STOPPED
    return ContainerFacts(
        name=container.name,
        state=str(container.condition),
        ready=container.ready,
        restarts=container.restarts + replaced,
        last_end=(container.message or f"exit code {container.exit_code}") if wrong else "",
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
