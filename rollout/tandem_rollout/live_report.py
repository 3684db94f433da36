"""Tells while a phase lasts what it has come to: Summary for people, Load for the autoscaler."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tandem_core.coordination.records import Load, PhaseRecord, Role
from tandem_core.job import RLJobSpec
from tandem_core.phases import Phase

from tandem_rollout.answer_pool import HYBRID_ENGINES, STANDALONE_ENGINES, AnswerPool
from tandem_rollout.engine_speed import expected_length
from tandem_rollout.expected_members import list_names
from tandem_rollout.phase_driver import PhaseDriver
from tandem_rollout.rollout_phase import Rollouts

REPORT_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
"""How long a phase may last before it is said whom it waits for."""
FRESH_SECONDS = 5.0
"""How old the load in etcd becomes in a rollout phase in which nothing changes."""

SHARE_STEP = 5
"""Per cent."""


class LiveReporter:
    """Writes what changed, at most every REPORT_SECONDS; `run` is its task."""

    def __init__(
        self,
        spec: RLJobSpec,
        driver: PhaseDriver,
        rollouts: Rollouts,
        pool: AnswerPool,
        observe_warmup: Callable[[], int],
    ) -> None:
        """`observe_warmup`: how many supervised steps the trainer has begun."""
        self._spec = spec
        self._driver = driver
        self._rollouts = rollouts
        self._pool = pool
        self._observe_warmup = observe_warmup
        self._load: Load | None = None

    async def run(self) -> None:
        """Report until cancelled. Raises LeadershipLost."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            record = self._driver.record
            if record is not None and record.phase != Phase.FAILED:
                await self._driver.report(self._observe_changes(record), self._observe_load(record.phase))

    def _observe_changes(self, record: PhaseRecord) -> dict[str, Any]:
        serving, problem, message = self._rollouts.engines_serving, self._driver.problems, ""
        if time.time() - record.started_at > PATIENCE_SECONDS:
            answers = len(self._rollouts.finished_lengths), self._rollouts.unfinished
            steps = self._observe_warmup(), self._spec.warmup.steps
            message = describe_progress(record.phase, steps, answers, self._driver.missing)
            if record.phase == Phase.ROLLOUT and not serving:
                problem = problem or f"waiting for an engine: none serves version {record.version}"
        return {"engines_serving": serving, "message": message, "problem": problem}

    def _observe_load(self, phase: Phase) -> Load | None:
        """None: nothing new."""
        in_rollout = phase == Phase.ROLLOUT
        rollouts, pool = self._rollouts, self._pool
        finished = rollouts.finished_lengths
        length = expected_length(self._driver.summary.response_tokens, finished, len(finished) + rollouts.unfinished)
        outstanding = rollouts.outstanding_tokens(length or self._spec.rollout.max_tokens) if in_rollout else 0.0
        answers = pool.count_answers()
        load = Load(
            phase=phase,
            outstanding_tokens=outstanding,
            phase_tokens=rollouts.progress[0] + outstanding if in_rollout and length else 0.0,
            hybrid=pool.speed.speed(Role.SIDECAR, pool.count_serving(HYBRID_ENGINES)),
            inference=pool.speed.speed(Role.INFERENCE, pool.count_serving(STANDALONE_ENGINES)),
            draining={pod: answers.get(f"{Role.INFERENCE}/{pod}", 0) for pod in pool.draining},
            measured_at=time.time(),
        )
        before = self._load
        if before is not None and load.model_copy(update={"measured_at": before.measured_at}) == before:
            fresh = load.measured_at - before.measured_at < FRESH_SECONDS
            if fresh or not in_rollout:
                return None
        self._load = load
        return load


def describe_progress(phase: Phase, steps: tuple[int, int], answers: tuple[int, int], missing: tuple[str, ...]) -> str:
    """How far a phase is that lasts, or whom it waits for; empty: neither is known.

    `steps`: supervised steps begun, and the most that there will be; `answers`: finished and not.
    """
    begun, most = steps
    finished, unfinished = answers
    if phase == Phase.WARMUP and begun:
        return f"{_share(begun - 1, most)} of at most {most:,} steps"
    if phase == Phase.ROLLOUT and unfinished:
        return f"{_share(finished, finished + unfinished)} of {finished + unfinished:,} answers are finished"
    return f"waiting for {list_names(missing)}" if missing else ""


def _share(done: int, total: int) -> str:
    """Such as 35 %: in steps of SHARE_STEP, each of which is written to etcd and to the job's status."""
    return f"{100 * done // total // SHARE_STEP * SHARE_STEP} %"
