"""Tells while a phase lasts what it has come to: Summary for people, Load for the autoscaler."""

import asyncio
import time
from typing import Any

from tandem_core.coordination.records import Load
from tandem_core.job import RLJobSpec
from tandem_core.phases import Phase

from tandem_rollout.expected_members import list_names
from tandem_rollout.phase_driver import PhaseDriver
from tandem_rollout.rollout_phase import Rollouts
from tandem_rollout.summary import estimate_throughput

REPORT_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
"""How long a phase may last before it is said whom it waits for."""


class LiveReporter:
    """Writes what changed, at most every REPORT_SECONDS; `run` is its task."""

    def __init__(self, spec: RLJobSpec, driver: PhaseDriver, rollouts: Rollouts) -> None:
        self._spec = spec
        self._driver = driver
        self._rollouts = rollouts
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
        engines = self._rollouts.engines_serving
        tokens, seconds = self._rollouts.progress
        throughput = estimate_throughput(
            self._driver.summary,
            engines=engines,
            tokens=tokens,
            seconds=seconds,
            max_tokens=self._spec.rollout.max_tokens,
        )
        rollout = phase == Phase.ROLLOUT
        load = Load(
            outstanding_tokens=self._rollouts.outstanding_tokens(throughput.expected_length) if rollout else 0.0,
            tokens_per_second_per_engine=round(throughput.tokens_per_second_per_engine, 3),
            engines_serving=engines,
            measured_at=time.time(),
        )
        same = self._load is not None and load == self._load.model_copy(update={"measured_at": load.measured_at})
        if same or not rollout:
            return None
        self._load = load
        return load
