"""How far a run is, in words and small pictures. Pure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from tandem_core.coordination.records import Summary
from tandem_core.phases import Phase

from tandem_local.run_state import Condition, ContainerState, PodState, RunState

_BARS = "▁▂▃▄▅▆▇█"
_ALARMING = (Condition.BACK_OFF, Condition.FAILED)


@dataclass
class Pace:
    """How long an iteration takes, from when each was first seen."""

    _first: tuple[int, float] | None = None
    _latest: tuple[int, float] | None = None

    def observe(self, phase: Phase, iteration: int, now: float) -> None:
        """`phase` of `iteration` is going on at `now` (seconds); what comes before the first rollouts is left out."""
        if self._first is None and phase is not Phase.ROLLOUT:
            return
        if self._first is None or iteration < self._first[0]:
            self._first = self._latest = (iteration, now)
        elif self._latest is not None and iteration > self._latest[0]:
            self._latest = (iteration, now)

    def remaining_seconds(self, iterations: int) -> float | None:
        """Seconds from the start of the latest iteration to the end of the last one; None: not known yet."""
        if self._first is None or self._latest is None or self._latest[0] == self._first[0]:
            return None
        each = (self._latest[1] - self._first[1]) / (self._latest[0] - self._first[0])
        return each * (iterations - self._latest[0] + 1)


@dataclass
class RewardHistory:
    """The mean reward of each iteration seen."""

    rewards: dict[int, float] = field(default_factory=dict)

    def observe(self, summary: Summary | None) -> None:
        """Keep the summary's reward, which is the last finished iteration's."""
        if summary is not None and summary.reward is not None:
            self.rewards[summary.iteration] = summary.reward


def sparkline(values: Sequence[float], width: int) -> str:
    """`values` as a line of at most `width` bars; more values than that are averaged."""
    if not values or width < 1:
        return ""
    columns = min(width, len(values))
    cuts = [len(values) * column // columns for column in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in means)


def describe_duration(seconds: float) -> str:
    """Such as 45 s, 3 min 20 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def describe_progress(summary: Summary | None) -> list[str]:
    """What there is to say about the job, the most important first."""
    if summary is None:
        return ["waiting for the job to report"]
    parts = [f"{summary.phase} {summary.iteration}/{summary.iterations}"]
    if summary.reward is not None:
        average = "" if summary.reward_average is None else f" (average {summary.reward_average:.3f})"
        parts.append(f"reward {summary.reward:.3f}{average}")
    if summary.accuracy is not None:
        parts.append(f"held-out {summary.accuracy:.1%}")
    if summary.loss is not None:
        parts.append(f"loss {summary.loss:.4g}")
    if summary.tokens_per_second is not None:
        parts.append(f"{summary.tokens_per_second:,.0f} tokens/s")
    if summary.inference_tokens:
        parts.append(f"{summary.inference_tokens:,} tokens by inference pods")
    behind = f", tokens up to {summary.versions_behind} behind" if summary.versions_behind else ""
    parts.append(f"weights {'none' if summary.version < 0 else f'v{summary.version}'}{behind}")
    parts += filter(None, (summary.message, summary.problem))
    return parts


def describe_changes(before: RunState | None, after: RunState) -> list[str]:
    """What happened between two states that a user should be told, one line each."""
    lines: list[str] = []
    if before is None or before.status is not after.status:
        lines.append(f"{after.job}: {after.status}" + (f" ({after.reason})" if after.reason else ""))
    former = {pod.name: pod for pod in before.pods} if before else {}
    for pod in after.pods:
        lines += _describe_pod_changes(former.get(pod.name), pod)
    return lines


def _describe_pod_changes(before: PodState | None, after: PodState) -> list[str]:
    lines = []
    if before is not None and after.replaced > before.replaced:
        lines.append(f"{after.name}: started anew ({after.replaced})")
    former = {item.name: item for item in before.containers} if before else {}
    for container in after.containers:
        line = _describe_container_change(former.get(container.name), container)
        if line:
            lines.append(f"{after.name}/{container.name}: {line}")
    return lines


def _describe_container_change(before: ContainerState | None, after: ContainerState) -> str:
    if before is not None and before.condition is after.condition:
        return ""
    if after.condition in _ALARMING:
        return f"{after.message}, {after.condition}"
    return str(after.condition) if after.condition in (Condition.RUNNING, Condition.COMPLETED) else ""
