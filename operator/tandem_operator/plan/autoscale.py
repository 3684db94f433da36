"""How many inference pods a job is to have, and which of them go: pure functions."""

from collections.abc import Collection
from dataclasses import dataclass
from math import ceil

from tandem_core.coordination.records import EngineSpeed, Load
from tandem_core.job.hybrid import ElasticSpec
from tandem_core.phases import Phase

STALE_SECONDS = 30.0
"""A load that is older says nothing about now; the master writes it every 5 s in a rollout phase."""
DRAIN_SECONDS = 60.0
"""A pod that has not handed back its answers by then goes all the same: they are made anew elsewhere."""
BAND = 0.15
"""By how much of all engines the need may differ from what is there before anything changes: measurements vary."""
FULL_ENOUGH = 0.5
"""Engines that never had this share of the answers that others had do not show how fast they are when they are full."""


@dataclass(frozen=True, slots=True)
class InferencePods:
    """What there is."""

    replicas: int
    """The Deployment's spec.replicas."""
    pods: tuple[str, ...] = ()
    """Names of its pods that are not being deleted, the oldest first."""
    ready: frozenset[str] = frozenset()
    """Those of them that are ready."""
    draining: tuple[str, ...] = ()
    """Control.draining."""


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """What there is to be."""

    replicas: int
    """For the Deployment; where it is fewer, the pods to be deleted are among `draining`."""
    draining: tuple[str, ...]
    """For Control.draining, and for the pods' deletion cost: these go first."""
    reason: str
    """Why, for a person."""


def plan_replicas(
    elastic: ElasticSpec,
    hybrid_replicas: int,
    load: Load | None,
    current: InferencePods,
    last_scale_time: float | None,
    now: float,
) -> ReplicaPlan:
    """Pods come at once when rollouts lag behind elastic.targetSeconds. They go one at a time, that long after the last
    change, and after they have handed back their answers.

    `last_scale_time`: when `replicas` or `draining` last changed; times are Unix seconds. With elastic.scaler: external
    the number is elastic.replicas, and all surplus pods drain together.
    """
    draining = tuple(pod for pod in current.draining if pod in current.pods)
    leaving = max(0, len(current.pods) - current.replicas)  # the Deployment is about to delete them
    pending = max(0, len(draining) - leaving)
    kept = current.replicas - pending
    settled = last_scale_time is None or now - last_scale_time >= elastic.target_seconds
    measured = _without_old_measurements(load, now)
    wanted, reason = _plan_count(elastic, hybrid_replicas, measured, kept, may_shrink=settled and not pending)
    if wanted > kept:
        return _grow(current.replicas, draining, pending, wanted, reason)
    if wanted < kept:
        return _begin_to_drain(current, draining, kept - wanted, reason)
    late = last_scale_time is not None and now - last_scale_time >= DRAIN_SECONDS
    told = {} if load is None else load.draining
    gone = [pod for pod in draining if late or pod not in current.ready or told.get(pod) == 0]
    count = min(pending, max(0, len(gone) - leaving))
    if count:
        return ReplicaPlan(current.replicas - count, draining, f"{count} drained inference pods go")
    return ReplicaPlan(current.replicas, draining, f"{pending} inference pods drain" if pending else reason)


def needed_pods(load: Load, hybrid_replicas: int, target_seconds: float) -> float | None:
    """Inference pods, in parts of one, with which the rollout phase takes `target_seconds`; None: not known.

    Fewer than none if hybrid pods alone are faster than that: by how much says whether the last pod may go.

    By the tokens of the whole phase, not by those that are left: these are few towards its end, and would let every
    phase end with fewer pods than it began with.
    """
    inference, hybrid = load.inference, load.hybrid
    speed = inference if _is_full_enough(inference, hybrid) else hybrid
    if not load.phase_tokens or not speed.tokens_per_second:
        return None
    by_hybrid = hybrid_replicas * (hybrid.tokens_per_second or speed.tokens_per_second)
    return (load.phase_tokens / target_seconds - by_hybrid) / speed.tokens_per_second


def _is_full_enough(inference: EngineSpeed, hybrid: EngineSpeed) -> bool:
    known = inference.tokens_per_second > 0
    return known and inference.answers_per_engine >= FULL_ENOUGH * hybrid.answers_per_engine


def _plan_count(
    elastic: ElasticSpec, hybrid_replicas: int, load: Load | None, kept: int, *, may_shrink: bool
) -> tuple[int, str]:
    """How many pods are to stay or come, and why."""
    if elastic.scaler == "external":
        wanted = elastic.min if elastic.replicas is None else elastic.replicas
        return _clamp(elastic, wanted), f"elastic.replicas asks for {wanted}"
    if kept != _clamp(elastic, kept):
        return _clamp(elastic, kept), f"elastic allows {elastic.min} to {elastic.max}"
    need = None if load is None else needed_pods(load, hybrid_replicas, elastic.target_seconds)
    if need is None:
        return kept, "nothing is measured yet"
    band = BAND * (hybrid_replicas + max(0.0, need))
    reason = f"a rollout phase of {elastic.target_seconds:g} s needs {max(0.0, need):.1f} inference pods"
    if _clamp(elastic, ceil(need - band)) > kept:
        return _clamp(elastic, ceil(need - BAND)), reason
    if may_shrink and _clamp(elastic, ceil(need + band)) < kept:
        return kept - 1, reason
    return kept, reason


def _without_old_measurements(load: Load | None, now: float) -> Load | None:
    """What must not be decided by: another phase's, or of a while ago."""
    fresh = load is not None and load.phase == Phase.ROLLOUT and now - load.measured_at <= STALE_SECONDS
    return load if fresh else None


def _grow(replicas: int, draining: tuple[str, ...], pending: int, wanted: int, reason: str) -> ReplicaPlan:
    """Pods that drain, but need not go yet, stay; the rest is new."""
    kept = replicas - pending
    back = min(wanted - kept, pending)
    still = draining[: len(draining) - back]
    return ReplicaPlan(wanted + pending - back, still, reason)


def _begin_to_drain(current: InferencePods, draining: tuple[str, ...], count: int, reason: str) -> ReplicaPlan:
    """Pods that are not there yet go at once; then, after draining, those that are not ready, and the newest."""
    missing = min(count, max(0, current.replicas - len(current.pods)))
    chosen = _choose(current.pods, current.ready, draining)[: count - missing]
    return ReplicaPlan(current.replicas - missing, (*draining, *chosen), reason)


def _choose(pods: tuple[str, ...], ready: Collection[str], draining: Collection[str]) -> list[str]:
    candidates = [pod for pod in reversed(pods) if pod not in draining]
    return sorted(candidates, key=lambda pod: pod in ready)


def _clamp(elastic: ElasticSpec, count: int) -> int:
    return min(max(count, elastic.min), elastic.max)
