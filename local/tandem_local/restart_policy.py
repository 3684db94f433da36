"""What happens after a container has ended: Kubernetes' rules, with times that suit one machine. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tandem_core.environment import EXIT_FOR_GOOD


class ContainerKind(StrEnum):
    """What a container is in its pod."""

    INIT = "init"
    """Runs to its end before the next one starts."""
    SIDECAR = "sidecar"
    """Starts before the main containers, ends after them (an initContainer with restartPolicy Always)."""
    MAIN = "main"


class RestartRule(StrEnum):
    """A pod's restartPolicy."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Verdict(StrEnum):
    """What to do about a container that ended."""

    COMPLETE = "complete"
    """It did its work."""
    RESTART = "restart"
    """Start it again, in its pod."""
    FAIL_POD = "fail the pod"
    """End the pod; its Job may make a new one."""
    FAIL_JOB = "fail the job"
    """Nothing will mend it."""


@dataclass(frozen=True)
class BackOff:
    """Seconds to wait before a restart: doubling, forgotten after a container ran for twice the longest wait.

    Kubernetes waits 10 s to 300 s, because many pods share a node; here one job has the machine.
    """

    first_seconds: float = 1.0
    longest_seconds: float = 15.0
    forgotten_after_seconds: float = 30.0

    def delay(self, failures_in_a_row: int) -> float:
        """Seconds before restart number `failures_in_a_row` (from 1)."""
        return float(min(self.longest_seconds, self.first_seconds * 2 ** min(failures_in_a_row - 1, 30)))


@dataclass
class FailureStreak:
    """How often something has failed in a row."""

    back_off: BackOff
    failures: int = 0

    def delay_after(self, ran_seconds: float) -> float:
        """Seconds to wait before the restart after one more failure, which came when it had run so long."""
        self.failures = 1 if ran_seconds >= self.back_off.forgotten_after_seconds else self.failures + 1
        return self.back_off.delay(self.failures)


@dataclass(frozen=True)
class FailureRule:
    """A rule of a Job's podFailurePolicy that looks at exit codes."""

    action: str
    """FailJob, Ignore or Count."""
    values: frozenset[int]
    container: str | None = None
    """Left out: any container."""
    operator: str = "In"

    def matches(self, container: str, exit_code: int) -> bool:
        """Whether the rule speaks of this end of a container."""
        if exit_code == 0 or self.container not in (None, container):
            return False
        return (exit_code in self.values) == (self.operator == "In")


@dataclass(frozen=True)
class ContainerEnd:
    """A container's process has ended."""

    container: str
    kind: ContainerKind
    exit_code: int
    restarts: int
    """How often it was restarted before."""
    probe_failed: str = ""
    """Not empty: it was ended because this probe failed."""

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself, with 0."""
        return self.exit_code == 0 and not self.probe_failed


def plan_after_end(
    end: ContainerEnd, rule: RestartRule, limit: int | None, failure_rules: Sequence[FailureRule] = ()
) -> Verdict:
    """What to do, given the pod's restart rule and its Job's `limit` of restarts (None: a Deployment, no limit)."""
    if end.kind is ContainerKind.SIDECAR:
        rule = RestartRule.ALWAYS
    elif end.kind is ContainerKind.INIT and rule is RestartRule.ALWAYS:
        rule = RestartRule.ON_FAILURE
    if end.succeeded and rule is not RestartRule.ALWAYS:
        return Verdict.COMPLETE
    in_job = limit is not None
    matching = next((item for item in failure_rules if item.matches(end.container, end.exit_code)), None)
    if end.exit_code == EXIT_FOR_GOOD or (matching is not None and matching.action == "FailJob"):
        return Verdict.FAIL_JOB if in_job else Verdict.FAIL_POD
    if rule is RestartRule.NEVER:
        return Verdict.FAIL_POD
    if limit is not None and end.restarts >= limit:
        return Verdict.FAIL_JOB
    return Verdict.RESTART
