"""Drives the job through its phases, under a fenced lease."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership, LeadershipLost
from tandem_core.coordination.mirror import Mirror, MirrorFailed
from tandem_core.coordination.records import Ack, Activity, Control, Load, Member, PhaseRecord, Record, Summary
from tandem_core.coordination.store import EtcdUnreachable, Store
from tandem_core.errors import TandemError
from tandem_core.job import RLJob
from tandem_core.phases import Phase, next_phase
from tandem_core.weights.manifest import Commit

from tandem_rollout.expected_members import list_problems
from tandem_rollout.history_writer import HistoryWriter
from tandem_rollout.phase_barriers import PhaseBarriers
from tandem_rollout.phase_plan import Recorded, evaluation_due, phase_deadline, phase_version, plan_start
from tandem_rollout.publication import build_commit, observe_manifest, old_prefixes
from tandem_rollout.storage.errors import StorageError
from tandem_rollout.storage.history import EvaluationSample
from tandem_rollout.storage.replay_buffer import ReplayBuffer
from tandem_rollout.summary import add_batch, add_evaluation, add_phases, add_training, at_phase, restore_summary

log = structlog.get_logger()

PASSING_ERRORS = (LeadershipLost, EtcdUnreachable, MirrorFailed, StorageError)
"""What a master that starts anew may get over."""
RECALL_SECONDS = 1.0
"""How long drained engines may take to give back requests after they have acknowledged."""


class RolloutSteps(Protocol):
    """What the driver asks of the rollouts; see rollout_phase.Rollouts."""

    @property
    def complete_groups(self) -> int: ...

    @property
    def first_request_at(self) -> float: ...

    def commit(self, version: int) -> None: ...

    async def load(self) -> None: ...

    async def start(self, iteration: int) -> None: ...

    async def prepare(self, iteration: int) -> None: ...

    async def finish(self, iteration: int) -> None: ...

    async def recall(self, grace_seconds: float) -> None: ...

    async def close(self, iteration: int) -> dict[str, float]: ...


class Evaluation(Protocol):
    """See evaluation.Evaluator."""

    async def evaluate(self, iteration: int) -> list[EvaluationSample] | None: ...


@dataclass(slots=True)
class _Turn:
    """What goes into the transaction that ends a phase, beside the next phase."""

    puts: Mapping[str, Record] = field(default_factory=dict)
    delete_prefixes: Sequence[str] = ()


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
        buffer: ReplayBuffer,
        rollouts: RolloutSteps,
        evaluation: Evaluation,
        history: HistoryWriter,
        pod: str = "master",
    ) -> None:
        self._job, self._spec = job, job.spec
        self._keys, self._store, self._leadership, self._members = keys, store, leadership, members
        self._buffer, self._rollouts, self._evaluation, self._history = buffer, rollouts, evaluation, history
        self._pod = pod
        self._barriers = PhaseBarriers(job, store, keys, members)
        self._committed = -1
        self._evaluated: frozenset[int] = frozenset()
        self._last_trained = self._last_recorded = 0
        self._trained_metrics: dict[str, float] = {}
        self._phase_seconds: dict[str, float] = {}
        self._seconds_aside = 0.0
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
        async with self._barriers, Mirror(self._store, self._keys.control, Control) as control:
            record = await self._begin(control)
            while record.phase != Phase.FAILED:
                turn = await self._carry_out(record)
                if record.phase == Phase.DONE:
                    break
                following = next_phase(record.phase, record.iteration, self._spec.iterations)
                reason = ""
                if record.phase == Phase.LOADING and control.value is not None and control.value.stop:
                    following = Phase.DONE, record.iteration
                    reason = f"stopped: {control.value.reason}" if control.value.reason else "stopped"
                before, record = record, await self._turn(*following, turn, reason=reason)
                if before.phase == Phase.LOADING:
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
        return await self._turn(Phase.FAILED, iteration, _Turn(), reason=reason)

    async def _begin(self, control: Mirror[Control]) -> PhaseRecord:
        record = await self._store.get(self._keys.phase, PhaseRecord)
        commit = await self._store.get(self._keys.newest_commit, Commit)
        if commit is not None:
            self._note_commit(commit.version)
        await self._rollouts.load()
        evaluations = await self._buffer.evaluations()
        self._evaluated = frozenset(evaluation.iteration for evaluation in evaluations)
        self.summary = restore_summary(await self._buffer.iterations(), evaluations, self._spec.iterations)
        self._last_trained = await self._buffer.last_trained_iteration()
        self._last_recorded = await self._buffer.last_recorded_iteration()
        recorded = Recorded(self._last_recorded, self._rollouts.complete_groups)
        stopping = control.value is not None and control.value.stop
        start = plan_start(record, recorded, self._spec, stopping=stopping)
        log.info("the master begins", phase=start.phase, iteration=start.iteration, recorded=recorded)
        self.record = record
        if start.phase == Phase.FAILED and record is not None:
            return record
        void = [self._keys.acks(start.iteration), self._keys.acks(start.iteration + 1)] if start.repeated else []
        return await self._turn(start.phase, start.iteration, _Turn(delete_prefixes=void))

    async def _turn(self, phase: Phase, iteration: int, turn: _Turn, *, reason: str = "") -> PhaseRecord:
        """Make `phase` the job's phase, in one transaction with all that belongs to it."""
        now = time.time()
        if self.record is not None and self.record.token == self._leadership.token:
            seconds = max(0.0, now - self.record.started_at - self._seconds_aside)
            self._seconds_aside = 0.0
            name = self.record.phase
            self._phase_seconds[name] = self._phase_seconds.get(name, 0.0) + seconds
            self.summary = add_phases(self.summary, {name: seconds})
        record = PhaseRecord(
            iteration=iteration,
            phase=phase,
            version=phase_version(phase, iteration, self._committed),
            token=self._leadership.token,
            started_at=now,
            reason=reason,
        )
        self.summary = at_phase(self.summary, record, self.problems)
        puts = {**turn.puts, self._keys.phase: record, self._keys.summary: self.summary}
        async with self._writing:
            await self._leadership.write(puts, delete_prefixes=turn.delete_prefixes)
        self.record = record
        log.info("phase", phase=phase, iteration=iteration, version=record.version, reason=reason or None)
        return record

    async def _carry_out(self, record: PhaseRecord) -> _Turn:
        iteration = record.iteration
        match record.phase:
            case Phase.WARMUP:
                await self._warm_up(iteration)
            case Phase.ROLLOUT:
                await self._roll_out(iteration)
            case Phase.DRAINING:
                await self._drain(iteration)
            case Phase.TRAINING:
                await self._train(iteration)
            case Phase.PUBLISHING:
                return await self._publish(iteration)
            case Phase.LOADING:
                await self._load(iteration)
            case Phase.DONE:
                await self._wait_for_trainers(Phase.DONE, iteration)
                await self._history.flush()
        return _Turn()

    async def _warm_up(self, iteration: int) -> None:
        """All members come together; trainers warm up, or load their checkpoint."""
        await self._barriers.wait_for_members()
        acks = await self._wait_for_trainers(Phase.WARMUP, iteration)
        self._trained_metrics = dict(acks[0].measurements)  # of a batch that was recorded, but not trained on

    async def _wait_for_trainers(self, phase: Phase, iteration: int) -> list[Ack]:
        acks = await self._barriers.wait_for_trainers(phase, iteration)
        self._history.note_activities(acks, self._members.values)
        return acks

    async def _roll_out(self, iteration: int) -> None:
        if iteration <= self._last_recorded:
            return  # resumed: the batch was recorded before
        await self._rollouts.start(iteration)
        await self._rollouts.finish(iteration)
        ended_at = time.time()
        started_at = self._rollouts.first_request_at or ended_at
        self._note_own(Activity(name="rollout", started_at=started_at, ended_at=ended_at))

    async def _drain(self, iteration: int) -> None:
        """Engines give up their devices, and the answers that are complete become the batch."""
        if iteration <= self._last_recorded:
            await self._barriers.wait_for_drained(iteration)
            return
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(self._rollouts.close(iteration))
            acks = await self._barriers.wait_for_drained(iteration)
            await self._rollouts.recall(RECALL_SECONDS)
        self._history.note_activities(acks, self._members.values)
        metrics = closing.result()
        self._last_recorded = iteration
        await self._history.note_metrics(iteration, metrics)
        self.summary = add_batch(self.summary, metrics)

    async def _train(self, iteration: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._last_recorded <= iteration:
                tasks.create_task(self._rollouts.prepare(iteration + 1))
            acks = await self._wait_for_trainers(Phase.TRAINING, iteration)
        self._trained_metrics = dict(acks[0].measurements)
        self.summary = add_training(self.summary, self._trained_metrics)
        # An older checkpoint must do if the newest cannot be read.
        oldest = min(ack.measurements.get("oldest_checkpoint", 0.0) for ack in acks)
        await self._history.prune(int(oldest) + 1)

    async def _publish(self, version: int) -> _Turn:
        """Commits the version in the same transaction that begins Loading."""
        async with asyncio.TaskGroup() as tasks:
            if version > self._last_trained:
                tasks.create_task(self._buffer.mark_trained(version, self._trained_metrics))
            await self._wait_for_trainers(Phase.PUBLISHING, version)
        self._last_trained = max(version, self._last_trained)
        deadline = phase_deadline(self._spec, Phase.PUBLISHING)
        manifest = await observe_manifest(self._store, self._keys, version, deadline)
        commit = build_commit(manifest, self._leadership.token)
        self._note_commit(version)
        puts = {self._keys.commit(version): commit, self._keys.newest_commit: commit}
        return _Turn(puts, tuple(old_prefixes(self._keys, version)))

    async def _load(self, version: int) -> None:
        """Engines take the version. The next rollouts begin at once: each engine gets answers as soon as it serves."""
        due = evaluation_due(self._spec, version, self._evaluated)
        async with asyncio.TaskGroup() as tasks:
            if not due and self._last_recorded <= version < self._spec.iterations:
                tasks.create_task(self._rollouts.start(version + 1))
            acks = await self._barriers.wait_for_loaded(version)
        self._history.note_activities(acks, self._members.values)
        if due:
            await self._evaluate(version)

    async def _evaluate(self, version: int) -> None:
        started_at = time.time()
        samples = await self._evaluation.evaluate(version)
        if samples is None:
            return
        await self._buffer.record_evaluation(version, version, samples)
        self._evaluated |= {version}
        accuracy = sum(sample.correct for sample in samples) / max(1, len(samples))
        self.summary = add_evaluation(self.summary, version, accuracy)
        ended_at = time.time()
        self._note_own(Activity(name="evaluation", started_at=started_at, ended_at=ended_at))
        self._seconds_aside = ended_at - started_at  # it happens in Loading, but is no part of the switch
        log.info("evaluation", version=version, accuracy=round(accuracy, 4), prompts=len(samples))

    def _note_commit(self, version: int) -> None:
        self._committed = version
        self._rollouts.commit(version)

    def _note_own(self, activity: Activity) -> None:
        self._history.note_own(self._pod, activity)


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
