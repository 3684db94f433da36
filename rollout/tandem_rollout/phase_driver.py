"""Drives the job through its phases, under a fenced lease."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership, LeadershipLost
from tandem_core.coordination.mirror import Mirror, MirrorFailed
from tandem_core.coordination.records import Control, Load, Member, PhaseRecord, Record, Summary
from tandem_core.coordination.store import EtcdUnreachable, Store
from tandem_core.errors import TandemError
from tandem_core.job import RLJob
from tandem_core.phases import Phase, next_phase

from tandem_rollout.expected_members import list_problems
from tandem_rollout.history_writer import HistoryWriter
from tandem_rollout.metrics import JobState, note_phase, note_switch
from tandem_rollout.phase_barriers import PhaseBarriers
from tandem_rollout.phase_plan import live_spec, phase_deadline, phase_version, plan_start
from tandem_rollout.phase_steps import Evaluation, Outcome, PhaseSteps, RolloutSteps
from tandem_rollout.storage.errors import StorageError
from tandem_rollout.storage.replay_buffer import ReplayBuffer
from tandem_rollout.summary import add_phases, add_switches, at_phase, restore_summary

log = structlog.get_logger()

PASSING_ERRORS = (LeadershipLost, EtcdUnreachable, MirrorFailed, StorageError)
"""What a master that starts anew may get over."""


class PhaseDriver:
    """One master's way through the phases; `run` returns the final PhaseRecord.

    All it needs to know stands in etcd and in the replay buffer, so another one can take over at any point.
    """

    def __init__(
        self,
        job: RLJob,
        keys: JobKeys,
        store: Store,
        leadership: Leadership,
        members: Mirror[Member],
        control: Mirror[Control],
        buffer: ReplayBuffer,
        rollouts: RolloutSteps,
        evaluation: Evaluation,
        history: HistoryWriter,
        pod: str = "master",
        batches_asked: Callable[[], int] = lambda: 0,
    ) -> None:
        self._job, self._spec = job, job.spec
        self._keys, self._store, self._leadership, self._members = keys, store, leadership, members
        self._control = control
        self._buffer, self._history = buffer, history
        self._barriers = PhaseBarriers(
            job,
            store,
            keys,
            members,
            pods_wait=lambda: control.value is not None and control.value.pods_wait,
            batches_asked=batches_asked,
        )
        self._steps = PhaseSteps(
            job.spec, keys, store, members, self._barriers, buffer, rollouts, evaluation, history, pod
        )
        self._phase_seconds: dict[str, float] = {}
        self._writing = asyncio.Lock()
        self.record: PhaseRecord | None = None
        """The phase now; None: not started."""
        self.summary = Summary(phase=Phase.WARMUP, iteration=0, iterations=self._spec.iterations, version=-1)

    @property
    def missing(self) -> tuple[str, ...]:
        """Members that have not acknowledged the phase yet; empty if it waits for something else."""
        return self._barriers.missing

    @property
    def problems(self) -> str:
        """What the job waits for or goes on without, such as room on a disk; empty: nothing."""
        return "; ".join(filter(None, (self._buffer.problem, list_problems(self._members.values.values()))))

    def observe(self) -> JobState:
        """What the metrics say, but for the groups."""
        phase = None if self.record is None or self.record.phase.final else self.record.phase
        return JobState(
            summary=self.summary,
            record=self.record,
            deadline_seconds=None if phase is None else phase_deadline(self._spec, phase),
            missing=len(self.missing),
            training=self._steps.trained_metrics,
        )

    async def run(self) -> PhaseRecord:
        """Go on where etcd and the replay buffer say; the final phase's record.

        What goes wrong for good ends the job in Failed, with the reason. Raises PASSING_ERRORS, and what is a defect:
        the master is to start again then.
        """
        try:
            return await self._drive()
        except (TandemError, ExceptionGroup) as error:
            reason = str(ending_error(error))
        return await self.fail(reason)

    async def _drive(self) -> PhaseRecord:
        async with self._barriers:
            record = await self._begin()
            while record.phase != Phase.FAILED:
                outcome = await self._steps.carry_out(record)
                if record.phase == Phase.DONE:
                    break
                following = next_phase(record.phase, record.iteration, self._spec.iterations)
                if record.phase == Phase.LOADING and outcome.attempt:
                    following = Phase.PUBLISHING, record.iteration
                control, reason = self._control.value, ""
                if following[0] == Phase.ROLLOUT and control is not None and control.stop:
                    following = Phase.DONE, record.iteration
                    reason = f"stopped: {control.reason}" if control.reason else "stopped"
                before, record = record, await self._turn(*following, outcome, reason=reason, stopped=bool(reason))
                if before.phase == Phase.LOADING and record.phase != Phase.PUBLISHING:
                    seconds, self._phase_seconds = self._phase_seconds, {}
                    await self._history.end_iteration(before.iteration, seconds)
        return record

    async def report(self, changes: Mapping[str, Any], load: Load | None) -> None:
        """Put the summary with `changes`, and `load`, if that says anything new."""
        async with self._writing:
            summary = self.summary.model_copy(update=changes)
            news: dict[str, Record] = {} if summary == self.summary else {self._keys.summary: summary}
            if load is not None:
                news[self._keys.load] = load
            self.summary = summary
            if news:
                await self._leadership.write(news)

    async def fail(self, reason: str) -> PhaseRecord:
        """End the job: every member ends, and the reason is shown."""
        iteration = self.record.iteration if self.record is not None else 0
        return await self._turn(Phase.FAILED, iteration, Outcome(), reason=reason)

    async def _begin(self) -> PhaseRecord:
        self._take_up_changes()
        record = await self._store.get(self._keys.phase, PhaseRecord)
        evaluations = await self._buffer.evaluations()
        self.summary = restore_summary(await self._buffer.iterations(), evaluations, self._spec.iterations)
        recorded = await self._steps.load(evaluations)
        stopping = self._control.value is not None and self._control.value.stop
        start = plan_start(record, recorded, self._spec, stopping=stopping)
        log.info("the master begins", phase=start.phase, iteration=start.iteration, recorded=recorded)
        self.record = record
        if start.phase == Phase.FAILED and record is not None:
            return record
        void = [self._keys.acks(start.iteration), self._keys.acks(start.iteration + 1)] if start.repeated else []
        same = record is not None and (start.phase, start.iteration) == (record.phase, record.iteration)
        attempt = record.attempt if record is not None and same else 0
        return await self._turn(start.phase, start.iteration, Outcome(delete_prefixes=void, attempt=attempt))

    def _take_up_changes(self) -> None:
        """The phase that begins is carried out by the specification as it is now."""
        self._spec = self._steps.spec = self._barriers.spec = live_spec(self._job.spec, self._control.value)

    async def _turn(
        self, phase: Phase, iteration: int, outcome: Outcome, *, reason: str = "", stopped: bool = False
    ) -> PhaseRecord:
        """Make `phase` the job's phase, in one transaction with all that belongs to it."""
        now = time.time()
        if self.record is not None and self.record.token == self._leadership.token:
            seconds = max(0.0, now - self.record.started_at - outcome.seconds_aside)
            name = self.record.phase
            self._phase_seconds[name] = self._phase_seconds.get(name, 0.0) + seconds
            summary = add_phases(outcome.summarise(self.summary), {name: seconds})
            self.summary = add_switches(summary, name, self._phase_seconds)
            note_phase(name, seconds)
            if self.record.iteration:  # engines start in the warm-up's, which is no switch
                note_switch(name, self._phase_seconds)
        record = PhaseRecord(
            iteration=iteration,
            phase=phase,
            version=phase_version(phase, iteration, self._steps.committed),
            token=self._leadership.token,
            started_at=now,
            attempt=outcome.attempt,
            reason=reason,
            stopped=stopped,
        )
        self._take_up_changes()
        self.summary = at_phase(self.summary, record, self._spec.iterations, self.problems)
        puts = {**outcome.puts, self._keys.phase: record, self._keys.summary: self.summary}
        async with self._writing:
            await self._leadership.write(puts, delete_prefixes=outcome.delete_prefixes)
        self.record = record
        log.info("phase", phase=phase, iteration=iteration, version=record.version, reason=reason or None)
        return record


def ending_error(error: Exception) -> TandemError:
    """The error that ends the job. Raises instead what the master is to be started again for."""
    leaves = _leaves(error)
    for leaf in leaves:
        if isinstance(leaf, PASSING_ERRORS):
            raise leaf from error
    for leaf in leaves:
        if not isinstance(leaf, TandemError):
            raise error
    return next(leaf for leaf in leaves if isinstance(leaf, TandemError))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]
