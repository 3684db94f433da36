"""What happens after a container of a local pod has ended."""

import pytest
from tandem_local.probe_specs import Probe, TcpCheck
from tandem_local.probes import ProbeCounter
from tandem_local.restart_policy import (
    BackOff,
    ContainerEnd,
    ContainerKind,
    FailureRule,
    FailureStreak,
    RestartRule,
    Verdict,
    plan_after_end,
)

MAIN, SIDECAR, INIT = ContainerKind.MAIN, ContainerKind.SIDECAR, ContainerKind.INIT
ALWAYS, ON_FAILURE, NEVER = RestartRule.ALWAYS, RestartRule.ON_FAILURE, RestartRule.NEVER


@pytest.mark.parametrize(
    ("kind", "rule", "exit_code", "restarts", "limit", "verdict"),
    [
        (MAIN, NEVER, 0, 0, 6, Verdict.COMPLETE),
        (MAIN, NEVER, 1, 0, 6, Verdict.FAIL_POD),
        (MAIN, ON_FAILURE, 0, 0, 6, Verdict.COMPLETE),
        (MAIN, ON_FAILURE, 1, 5, 6, Verdict.RESTART),
        (MAIN, ON_FAILURE, 1, 6, 6, Verdict.FAIL_JOB),
        (MAIN, NEVER, 3, 0, 6, Verdict.FAIL_JOB),
        (MAIN, ON_FAILURE, 3, 0, 6, Verdict.FAIL_JOB),
        (SIDECAR, NEVER, 0, 0, 6, Verdict.RESTART),
        (SIDECAR, NEVER, 137, 5, 6, Verdict.RESTART),
        (SIDECAR, NEVER, 137, 6, 6, Verdict.FAIL_JOB),
        (SIDECAR, NEVER, 3, 0, 6, Verdict.FAIL_JOB),
        (INIT, NEVER, 0, 0, 6, Verdict.COMPLETE),
        (INIT, NEVER, 1, 0, 6, Verdict.FAIL_POD),
        (INIT, ALWAYS, 0, 0, None, Verdict.COMPLETE),
        (INIT, ALWAYS, 1, 0, None, Verdict.RESTART),
        (MAIN, ALWAYS, 0, 0, None, Verdict.RESTART),
        (MAIN, ALWAYS, 1, 1000, None, Verdict.RESTART),
        (MAIN, ALWAYS, 3, 0, None, Verdict.FAIL_POD),
    ],
)
def test_restart_rules(
    kind: ContainerKind, rule: RestartRule, exit_code: int, restarts: int, limit: int | None, verdict: Verdict
) -> None:
    assert plan_after_end(ContainerEnd("c", kind, exit_code, restarts), rule, limit) is verdict


def test_a_container_ended_for_its_probe_has_failed_whatever_its_exit_code() -> None:
    end = ContainerEnd("c", MAIN, 0, 0, probe_failed="liveness probe failed")
    assert plan_after_end(end, ON_FAILURE, 6) is Verdict.RESTART


@pytest.mark.parametrize(
    ("rule", "container", "exit_code", "verdict"),
    [
        (FailureRule("FailJob", frozenset({7}), "trainer"), "trainer", 7, Verdict.FAIL_JOB),
        (FailureRule("FailJob", frozenset({7}), "trainer"), "other", 7, Verdict.FAIL_POD),
        (FailureRule("FailJob", frozenset({7})), "other", 7, Verdict.FAIL_JOB),
        (FailureRule("FailJob", frozenset({7}), operator="NotIn"), "trainer", 8, Verdict.FAIL_JOB),
        (FailureRule("FailJob", frozenset({7}), operator="NotIn"), "trainer", 7, Verdict.FAIL_POD),
        (FailureRule("Count", frozenset({7})), "trainer", 7, Verdict.FAIL_POD),
    ],
)
def test_failure_rules_look_at_exit_codes(rule: FailureRule, container: str, exit_code: int, verdict: Verdict) -> None:
    assert plan_after_end(ContainerEnd(container, MAIN, exit_code, 0), NEVER, 6, [rule]) is verdict


def test_back_off_doubles_up_to_a_bound() -> None:
    back_off = BackOff(first_seconds=1, longest_seconds=60)
    assert [back_off.delay(number) for number in (1, 2, 3, 6, 7, 10_000)] == [1, 2, 4, 32, 60, 60]


def test_failures_before_a_good_run_are_forgotten() -> None:
    streak = FailureStreak(BackOff(first_seconds=1, longest_seconds=15, forgotten_after_seconds=30))
    assert [streak.delay_after(ran) for ran in (0, 2, 29, 31, 5)] == [1, 2, 4, 1, 2]


def test_a_probe_counts_in_a_row() -> None:
    counter = ProbeCounter(Probe(TcpCheck("h", 1), success_threshold=2, failure_threshold=3))
    results = [counter.observe(passed) for passed in (True, True, False, False, True, False, False, False)]
    assert results == [None, True, None, None, None, None, None, False]
