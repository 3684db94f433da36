"""Tells while a phase lasts what it has come to: Summary for people, Load for the autoscaler."""

import asyncio
import time
from typing import Any

from tandem_core.coordination.records import Load, Role
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


class LiveReporter:
    """Writes what changed, at most every REPORT_SECONDS; `run` is its task."""

    def __init__(self, spec: RLJobSpec, driver: PhaseDriver, rollouts: Rollouts, pool: AnswerPool) -> None:
        self._spec = spec
        self._driver = driver
        self._rollouts = rollouts
        self._pool = pool
        self._load: Load | None = None

    async def run(self) -> None:
        """Report until cancelled. Raises LeadershipLost."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            record = self._driver.record
            if record is not None and record.phase != Phase.FAILED:
                await self._driver.report(self._observe_changes(record.phase), self._observe_load(record.phase))

    def _observe_changes(self, phase: Phase) -> dict[str, Any]:
        message = self._driver.problems or self._observe_wait(phase)
        return {"engines_serving": self._rollouts.engines_serving, "message": message}

    def _observe_wait(self, phase: Phase) -> str:
        """What a phase that lasts waits for; empty: nothing, or it has just begun."""
        record = self._driver.record
        if record is None or time.time() - record.started_at <= PATIENCE_SECONDS:
            return ""
        if self._driver.missing:
            return f"waiting for {list_names(self._driver.missing)}"
        if phase == Phase.ROLLOUT and not self._rollouts.engines_serving:
            return f"waiting for an engine: none serves version {record.version}"
        return ""

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
