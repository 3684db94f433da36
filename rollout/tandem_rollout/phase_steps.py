"""What a master does in each phase: waits for the members, and moves answers, batches and versions on."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from tandem_core.coordination.barrier import AckError
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, Activity, Member, PhaseRecord, Record, Summary
from tandem_core.coordination.store import Store
from tandem_core.job import RLJobSpec
from tandem_core.phases import Phase
from tandem_core.weights.manifest import Commit

from tandem_rollout.history_writer import HistoryWriter
from tandem_rollout.metrics import note_publication, note_training
from tandem_rollout.phase_barriers import PhaseBarriers
from tandem_rollout.phase_plan import Recorded, evaluation_due, phase_deadline
from tandem_rollout.publication import build_commit, observe_manifest, old_prefixes
from tandem_rollout.storage.history import EvaluationRecord, EvaluationSample
from tandem_rollout.storage.replay_buffer import ReplayBuffer
from tandem_rollout.summary import add_batch, add_evaluation, add_training

log = structlog.get_logger()

RECALL_SECONDS = 1.0
"""How long drained engines may take to give back requests after they have acknowledged."""

MOST_ATTEMPTS = 3
"""How often a version is published while its bytes turn out not to be what the ranks attested; then the job ends."""


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

    async def finish(self, iteration: int, deadline_seconds: float) -> None: ...

    async def recall(self, grace_seconds: float) -> None: ...

    async def close(self, iteration: int, last_iteration: int) -> dict[str, float]: ...


class Evaluation(Protocol):
    """See evaluation.Evaluator."""

    async def evaluate(self, iteration: int, deadline_seconds: float) -> list[EvaluationSample] | None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a phase has come to."""

    puts: Mapping[str, Record] = field(default_factory=dict)
    """Written in the transaction that begins the next phase."""
    delete_prefixes: Sequence[str] = ()
    """Deleted in it."""
    summarise: Callable[[Summary], Summary] = lambda summary: summary
    """Adds what there is to tell."""
    seconds_aside: float = 0.0
    """Of the phase's time, what is no part of it."""
    attempt: int = 0
    """The next phase's PhaseRecord.attempt. After Loading, if it is not 0, the version is to be published again."""


class PhaseSteps:
    """Carries the phases out, one at a time."""

    def __init__(
        self,
        spec: RLJobSpec,
        keys: JobKeys,
        store: Store,
        members: Mirror[Member],
        barriers: PhaseBarriers,
        buffer: ReplayBuffer,
        rollouts: RolloutSteps,
        evaluation: Evaluation,
        history: HistoryWriter,
        pod: str,
    ) -> None:
        self._keys, self._store, self._members, self._barriers = keys, store, members, barriers
        self._buffer, self._rollouts, self._evaluation, self._history = buffer, rollouts, evaluation, history
        self._pod = pod
        self.spec = spec
        """As it is now; the driver brings it up to date."""
        self.committed = -1
        """The newest committed version."""
        self._evaluated: frozenset[int] = frozenset()
        self._last_trained = self._last_recorded = 0
        self.trained_metrics: dict[str, float] = {}
        """What the trainer measured in the newest training; empty: none since this process began."""

    async def load(self, evaluations: Sequence[EvaluationRecord]) -> Recorded:
        """Take up what etcd and the replay buffer hold."""
        commit = await self._store.get(self._keys.newest_commit, Commit)
        if commit is not None:
            self._note_commit(commit.version)
        await self._rollouts.load()
        self._evaluated = frozenset(evaluation.iteration for evaluation in evaluations)
        self._last_trained = await self._buffer.last_trained_iteration()
        self._last_recorded = await self._buffer.last_recorded_iteration()
        return Recorded(self._last_recorded, self._rollouts.complete_groups)

    async def carry_out(self, record: PhaseRecord) -> Outcome:
        """Return when the phase is over."""
        iteration = record.iteration
        match record.phase:
            case Phase.WARMUP:
                await self._warm_up(iteration)
            case Phase.ROLLOUT:
                await self._roll_out(iteration)
            case Phase.DRAINING:
                return await self._drain(iteration)
            case Phase.TRAINING:
                return await self._train(iteration)
            case Phase.PUBLISHING:
                return await self._publish(iteration, record)
            case Phase.LOADING:
                return await self._load(iteration, record.attempt)
            case Phase.DONE:
                await self._wait_for_trainers(Phase.DONE, iteration)
                await self._history.flush()
        return Outcome()

    async def _warm_up(self, iteration: int) -> None:
        """All members come together; trainers warm up, or load their checkpoint."""
        await self._barriers.wait_for_members()
        acks = await self._wait_for_trainers(Phase.WARMUP, iteration)
        self.trained_metrics = dict(acks[0].measurements)  # of a batch that was recorded, but not trained on

    async def _wait_for_trainers(self, phase: Phase, iteration: int) -> list[Ack]:
        acks = await self._barriers.wait_for_trainers(phase, iteration)
        self._history.note_activities(acks, self._members.values)
        return acks

    async def _roll_out(self, iteration: int) -> None:
        if iteration <= self._last_recorded:
            return  # resumed: the batch was recorded before
        await self._rollouts.start(iteration)
        await self._rollouts.finish(iteration, phase_deadline(self.spec, Phase.ROLLOUT))
        ended_at = time.time()
        started_at = self._rollouts.first_request_at or ended_at
        self._note_own(Activity(name="rollout", started_at=started_at, ended_at=ended_at))

    async def _drain(self, iteration: int) -> Outcome:
        """Engines give up their devices, and the answers that are complete become the batch."""
        if iteration <= self._last_recorded:
            await self._barriers.wait_for_drained(iteration)
            return Outcome()
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(self._rollouts.close(iteration, self.spec.iterations))
            acks = await self._barriers.wait_for_drained(iteration)
            await self._rollouts.recall(RECALL_SECONDS)
        self._history.note_activities(acks, self._members.values)
        metrics = closing.result()
        self._last_recorded = iteration
        return Outcome(summarise=lambda summary: add_batch(summary, metrics))

    async def _train(self, iteration: int) -> Outcome:
        async with asyncio.TaskGroup() as tasks:
            if self._last_recorded <= iteration < self.spec.iterations:
                tasks.create_task(self._rollouts.prepare(iteration + 1))
            acks = await self._wait_for_trainers(Phase.TRAINING, iteration)
        self.trained_metrics = metrics = dict(acks[0].measurements)
        note_training(metrics)
        # An older checkpoint must do if the newest cannot be read.
        oldest = min(ack.measurements.get("oldest_checkpoint", 0.0) for ack in acks)
        await self._history.prune(int(oldest) + 1)
        return Outcome(summarise=lambda summary: add_training(summary, metrics))

    async def _publish(self, version: int, record: PhaseRecord) -> Outcome:
        """Commits the version in the same transaction that begins Loading."""
        async with asyncio.TaskGroup() as tasks:
            if version > self._last_trained:
                tasks.create_task(self._buffer.mark_trained(version, self.trained_metrics))
            note_publication(await self._wait_for_trainers(Phase.PUBLISHING, version))
        self._last_trained = max(version, self._last_trained)
        deadline = phase_deadline(self.spec, Phase.PUBLISHING)
        manifest = await observe_manifest(self._store, self._keys, version, deadline)
        commit = build_commit(manifest, record.token)
        self._note_commit(version)
        puts = {self._keys.commit(version): commit, self._keys.newest_commit: commit}
        return Outcome(puts, tuple(old_prefixes(self._keys, version)), attempt=record.attempt)

    async def _load(self, version: int, attempt: int) -> Outcome:
        """Engines take the version. The next rollouts begin at once: each engine gets answers as soon as it serves."""
        due = evaluation_due(self.spec, version, self._evaluated)
        async with asyncio.TaskGroup() as tasks:
            if not due and self._last_recorded <= version < self.spec.iterations:
                tasks.create_task(self._rollouts.start(version + 1))
            acks = await self._barriers.wait_for_loaded(version)
        self._history.note_activities(acks, self._members.values)
        if acks and all(ack.damaged for ack in acks):
            if attempt == MOST_ATTEMPTS - 1:
                raise AckError(acks[0])
            log.error("the version is damaged, and published again", version=version, error=acks[0].error)
            void = [self._keys.acks(version, phase) for phase in (Phase.PUBLISHING, Phase.LOADING)]
            return Outcome(delete_prefixes=void, attempt=attempt + 1)
        return await self._evaluate(version) if due else Outcome()

    async def _evaluate(self, version: int) -> Outcome:
        started_at = time.time()
        samples = await self._evaluation.evaluate(version, phase_deadline(self.spec, Phase.ROLLOUT))
        if samples is None:
            return Outcome()
        await self._buffer.record_evaluation(version, version, samples)
        self._evaluated |= {version}
        accuracy = sum(sample.correct for sample in samples) / max(1, len(samples))
        ended_at = time.time()
        self._note_own(Activity(name="evaluation", started_at=started_at, ended_at=ended_at))
        log.info("evaluation", version=version, accuracy=round(accuracy, 4), prompts=len(samples))
        return Outcome(
            summarise=lambda summary: add_evaluation(summary, version, accuracy),
            seconds_aside=ended_at - started_at,  # it happens in Loading, but is no part of the switch
        )

    def _note_commit(self, version: int) -> None:
        self.committed = version
        self._rollouts.commit(version)

    def _note_own(self, activity: Activity) -> None:
        self._history.note_own(self._pod, activity)
