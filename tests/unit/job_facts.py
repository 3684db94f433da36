"""Facts of made-up jobs."""

from datetime import UTC, datetime
from typing import Any

from tandem_core.coordination.records import Ack, EngineState, EngineStatus, Load, Member, PhaseRecord, Role, Summary
from tandem_core.coordination.snapshot import JobSnapshot
from tandem_core.job import Condition, RLJob, RLJobStatus, parse_job
from tandem_core.phases import Phase
from tandem_local.inspection.facts import ContainerFacts, JobFacts, PodFacts

NOW = 1_700_000_000.0

JOB: RLJob = parse_job(
    """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: add}
spec:
  iterations: 9
  model: {scratch: {tokenizer: {tokens: ["0", "1"]}}}
  data: {dataset: {path: p.jsonl}}
  rewards: {scorers: [{type: exact}]}
  hybrid: {device: cpu, inference: {release: none, kvCacheBytes: 67108864}}
"""
)


def condition(kind: str, status: str, reason: str, message: str = "") -> Condition:
    """As the operator writes it."""
    since = datetime.fromtimestamp(NOW - 60, UTC)
    return Condition.model_validate(
        {"type": kind, "status": status, "reason": reason, "message": message, "last_transition_time": since}
    )


RUNNING = (condition("Accepted", "True", "Valid"), condition("Progressing", "True", "Running"))


def pod(component: str = "hybrid", *, ready: bool = True, **changes: Any) -> PodFacts:
    container = ContainerFacts("trainer" if component == "hybrid" else component, "running", ready, 0)
    name = f"add-{component}-0"
    values = {"node": "node0", "containers": (container,)} | changes
    return PodFacts(name, f"{name}-x7k2p", component, "Running", ready, **values)


def engine(state: EngineState = EngineState.SERVING, version: int = 2, **changes: Any) -> Member:
    status = EngineStatus(url="http://a", state=state, version=version, restarts=changes.pop("restarts", 0))
    values = {"name": "add-hybrid-0", "role": Role.SIDECAR, "pod": "add-hybrid-0", "incarnation": "i", "started_at": 0}
    return Member(engine=status, **(values | changes))


TRAINER = Member(name="0", role=Role.TRAINER, pod="add-hybrid-0", incarnation="i", started_at=0)


def snapshot(
    phase: Phase = Phase.ROLLOUT, seconds: float = 5.0, message: str = "", problem: str = "", **changes: Any
) -> JobSnapshot:
    """A job in that phase of iteration 3 for so many seconds."""
    values: dict[str, Any] = {
        "phase": PhaseRecord(iteration=3, phase=phase, version=2, token=1, started_at=NOW - seconds),
        "summary": Summary(
            phase=phase, iteration=3, iterations=9, version=2, message=message, problem=problem, updated_at=NOW - 1
        ),
        "load": Load(phase=phase, outstanding_tokens=1200, measured_at=NOW - 1),
        "led": True,
        "newest_version": 2,
        "members": (engine(), TRAINER),
    }
    return JobSnapshot(**(values | changes))


def ack(member: str, phase: Phase, error: str = "") -> Ack:
    return Ack(member=member, iteration=3, phase=phase, error=error)


def facts(*conditions: Condition, **changes: Any) -> JobFacts:
    """A job with these conditions, by default one at which all is well."""
    status = RLJobStatus(
        phase=Phase.ROLLOUT, iteration=3, observed_generation=1, conditions=list(conditions or RUNNING)
    )
    values = {"status": status, "created_at": NOW - 600, "job": JOB, "pods": (pod(), pod("master"))} | changes
    return JobFacts(name="add", place="namespace team-a", **values)
