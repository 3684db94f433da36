"""The replay buffer: every answer, batch and metric of a job, on SQLite or PostgreSQL."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Select, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection
from tandem_core.coordination.records import Activity

from tandem_rollout.storage import batches, groups, journal
from tandem_rollout.storage.browsing import AnswerPage, AnswerQuery, FullAnswer, find_answers, select_answer
from tandem_rollout.storage.database import OWNER, PATIENCE_SECONDS, open_database, schema_name
from tandem_rollout.storage.errors import StorageError
from tandem_rollout.storage.history import (
    SELECT_ACCURACIES,
    SELECT_EVALUATION_SAMPLES,
    SELECT_EVALUATIONS,
    SELECT_EXTENT,
    SELECT_INFO,
    SELECT_ITERATIONS,
    AccuracyRecord,
    ActivityRecord,
    EvaluationRecord,
    EvaluationSample,
    Extent,
    IterationRecord,
    SampleRecord,
    ServedRecord,
    read_accuracies,
    read_activities,
    read_evaluations,
    read_extent,
    read_info,
    read_iterations,
    read_samples,
    read_served,
    select_activities,
    select_samples,
    select_served,
)
from tandem_rollout.storage.tables import (
    SCHEMA_VERSION,
    InfoRow,
    Table,
)
from tandem_rollout.storage.upgrade import add_what_is_new
from tandem_rollout.storage.upsert import upsert
from tandem_rollout.trajectory import Group, ScoredGroup, ScoredSample, Trajectory, TrajectoryState

MOST_ITERATIONS = 2**31 - 1


def sqlite_url(file: Path) -> str:
    """The address of a SQLite replay buffer."""
    return f"sqlite:///{file}"


class ReplayBuffer:
    """`async with ReplayBuffer(url, job_uid) as buffer`. Every method is one transaction and raises StorageError; while
    the server is away or the disk is full it is tried again for up to `patience_seconds`.

    `url` is sqlite:///path or postgresql://user:password@host/name. Tables are made if they are not there. A database
    of another job is refused.
    """

    def __init__(self, url: str, job_uid: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._database = open_database(url, job_uid, patience_seconds)
        self._postgresql = make_url(url).get_backend_name() != "sqlite"
        self._job_uid = job_uid

    async def __aenter__(self) -> Self:
        """Connect, waiting for a server that is not up yet; make or check the tables."""
        await self._database.write(self._create_tables, durable=True)
        found = await self.info()
        if found.get("schema_version") != SCHEMA_VERSION:
            await self._refuse(
                f"has tables of version {found.get('schema_version')}, this Tandem needs {SCHEMA_VERSION}"
            )
        if found.get("job_uid") != self._job_uid:
            await self._refuse(f"belongs to the job with uid {found.get('job_uid')}, not {self._job_uid}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self._database.dispose()

    @property
    def problem(self) -> str:
        """What the database does not do now; empty: it works."""
        return self._database.problem

    async def take_over(self, token: int) -> None:
        """From now on only this process writes; others' transactions raise NotOwner. `token`: of its leadership."""
        await self.set_info({OWNER: token})
        self._database.owner = token

    async def create_groups(
        self, iteration: int, prompt_ids: Sequence[int], group_size: int, *, texts: Mapping[int, str] | None = None
    ) -> list[Group]:
        """New groups of `group_size` empty answers each, in order of `prompt_ids`.

        `texts` are the prompts' texts by id; reports show them.
        """
        last = await self._database.read(groups.select_last_id)  # given, so that a second try makes no second groups
        return await self._database.write(
            lambda connection: groups.insert_groups(connection, last, iteration, prompt_ids, group_size, texts or {})
        )

    async def groups_created(self) -> int:
        """Number of groups ever created: the place in the epoch for uniform sampling."""
        return await self._database.read(groups.count_groups)

    async def save(self, samples: Sequence[ScoredSample], trajectories: Sequence[Trajectory] = ()) -> None:
        """Save what is new of the segments, and the states; answers in `samples` become SCORED, with their scores."""
        if samples or trajectories:
            await self._database.write(lambda connection: groups.write(connection, samples, trajectories))
            _note_saved(samples, trajectories)

    async def open_groups(self) -> list[Group]:
        """Groups with an answer that is unfinished or not scored, oldest first, with all answers as saved."""
        return await self._database.read(groups.select_open_groups)

    async def scored_groups(self) -> list[ScoredGroup]:
        """Groups whose answers are all scored and that are in no batch, oldest first."""
        return await self._database.read(groups.select_scored_groups)

    async def record_batch(
        self,
        iteration: int,
        data: bytes,
        scored: Sequence[ScoredGroup],
        *,
        samples: Sequence[ScoredSample] = (),
        trajectories: Sequence[Trajectory] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> bytes:
        """Record `data` as the batch of `iteration` made of the groups `scored`; returns what is recorded.

        Happens exactly once, in one durable transaction: if the iteration has a batch already, nothing changes and
        that one is returned, whatever is given now. `samples` and `trajectories` are saved with it, see `save`, and so
        are the iteration's `metrics`. Raises StorageError if a group is in another batch, or `iteration` is not the one
        after the newest batch's.
        """

        async def record(connection: AsyncConnection) -> bytes:
            if (recorded := await batches.select_batch(connection, iteration)) is not None:
                return recorded
            await groups.write(connection, samples, trajectories)
            await batches.insert_batch(connection, iteration, data, scored)
            if metrics:
                await journal.write_iteration(
                    connection, iteration, version=iteration, metrics=metrics, phase_seconds={}
                )
            return data

        try:
            result = await self._database.write(record, durable=True)
        except (batches.BatchConflict, StorageError) as error:
            # Another master may have been faster: then its batch is the one.
            if (recorded := await self.batch(iteration)) is not None:
                return recorded
            raise StorageError(f"the batch of iteration {iteration} cannot be recorded: {error}") from error
        _note_saved(samples, trajectories)
        return result

    async def batch(self, iteration: int) -> bytes | None:
        """The batch of `iteration`; None: not recorded, or pruned."""
        return await self._database.read(lambda connection: batches.select_batch(connection, iteration))

    async def last_recorded_iteration(self) -> int:
        """The newest iteration with a batch; 0: none."""
        return await self._database.read(batches.select_last_recorded)

    async def mark_trained(self, iteration: int, metrics: Mapping[str, float] | None = None) -> None:
        """Note that all ranks have trained on the batch of `iteration`, with the step's metrics.

        Raises StorageError if there is no such batch.
        """

        async def mark(connection: AsyncConnection) -> None:
            if not await batches.update_trained(connection, iteration):
                raise StorageError(f"iteration {iteration} cannot be marked as trained: it has no batch")
            await journal.write_iteration(
                connection, iteration, version=iteration, metrics=metrics or {}, phase_seconds={}
            )

        await self._database.write(mark)

    async def last_trained_iteration(self) -> int:
        """The newest iteration that was marked as trained; 0: none."""
        return await self._database.read(batches.select_last_trained)

    async def prune_batches(self, before_iteration: int) -> int:
        """Forget bytes of batches before `before_iteration` and their answers' tokens; for what checkpoints cover.

        Texts, rewards and lengths stay. Returns how many batches were pruned.
        """
        return await self._database.write(lambda connection: batches.delete_old(connection, before_iteration))

    async def success_rates(self) -> dict[int, float]:
        """Prompt id -> moving average of the share of right answers (factor batches.RECENT_SHARE a group)."""
        return await self._database.read(batches.select_success_rates)

    async def record_iteration(
        self, iteration: int, *, version: int, metrics: Mapping[str, float], phase_seconds: Mapping[str, float]
    ) -> None:
        """Note metrics and phase times; called again, new names are added and given ones replaced."""
        await self._database.write(
            lambda connection: journal.write_iteration(
                connection, iteration, version=version, metrics=metrics, phase_seconds=phase_seconds
            )
        )

    async def add_activities(self, pod: str, iteration: int, activities: Sequence[Activity]) -> None:
        """Note what `pod` did; the same name and start again replaces the earlier one."""
        await self._database.write(lambda connection: journal.write_activities(connection, pod, iteration, activities))

    async def add_served(self, served: Sequence[ServedRecord]) -> None:
        """Note which engine served which version when; the same pod and start again replaces the earlier one."""
        await self._database.write(lambda connection: journal.write_served(connection, served))

    async def record_evaluation(self, iteration: int, version: int, samples: Sequence[EvaluationSample]) -> None:
        """Note an evaluation; replaces an earlier one of the same iteration."""
        await self._database.write(lambda connection: journal.write_evaluation(connection, iteration, version, samples))

    async def set_info(self, values: Mapping[str, Any]) -> None:
        """Note facts about the job (JSON values); a name again replaces its value."""
        rows = [{"key": key, "value": value} for key, value in values.items()]
        await self._database.write(lambda connection: upsert(connection, InfoRow, rows))

    async def info(self) -> dict[str, Any]:
        """job_uid, schema_version and what was set."""
        return read_info(await self._all(SELECT_INFO))

    async def iterations(self) -> list[IterationRecord]:
        """All iterations, in order."""
        return read_iterations(await self._all(SELECT_ITERATIONS))

    async def extent(self) -> Extent:
        """Which iterations are recorded."""
        return read_extent(await self._all(SELECT_EXTENT))

    async def activities(self, first: int = 0, last: int = MOST_ITERATIONS) -> list[ActivityRecord]:
        """Activities of iterations `first` to `last`, by start."""
        return read_activities(await self._all(select_activities(first, last)))

    async def served(self, started_at: float, ended_at: float) -> list[ServedRecord]:
        """Which engine served which version in the time between the two (Unix seconds), by start."""
        return read_served(await self._all(select_served(started_at, ended_at)))

    async def accuracies(self) -> list[AccuracyRecord]:
        """What evaluations came to, by iteration."""
        return read_accuracies(await self._all(SELECT_ACCURACIES))

    async def evaluations(self) -> list[EvaluationRecord]:
        """All evaluations, by iteration."""
        return read_evaluations(await self._all(SELECT_EVALUATIONS), await self._all(SELECT_EVALUATION_SAMPLES))

    async def samples(self, iteration: int, limit: int = 100) -> list[SampleRecord]:
        """Answers that were trained on in `iteration`."""
        return read_samples(await self._all(select_samples(iteration, limit)))

    async def find_answers(self, query: AnswerQuery) -> AnswerPage:
        """A page of scored answers."""
        return await self._database.read(lambda connection: find_answers(connection, query))

    async def answer(self, number: int) -> FullAnswer | None:
        """The scored answer with this id; None: there is none."""
        return await self._database.read(lambda connection: select_answer(connection, number))

    async def _all(self, statement: Select[Any]) -> Sequence[Any]:
        async def fetch(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(statement)).all()

        return await self._database.read(fetch)

    async def _create_tables(self, connection: AsyncConnection) -> None:
        if self._postgresql:
            await _create_schema(connection, schema_name(self._job_uid))
        await connection.run_sync(Table.metadata.create_all)
        await connection.run_sync(add_what_is_new)
        if (await connection.execute(SELECT_INFO.limit(1))).first() is None:
            facts = {"job_uid": self._job_uid, "schema_version": SCHEMA_VERSION}
            await upsert(connection, InfoRow, [{"key": key, "value": value} for key, value in facts.items()])

    async def _refuse(self, reason: str) -> None:
        await self._database.dispose()
        raise StorageError(f"the replay buffer {self._database.label} {reason}: move it away, or name another one")


async def _create_schema(connection: AsyncConnection, schema: str) -> None:
    # Two masters that start together must not both create it; the lock ends with the transaction.
    await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:schema))"), {"schema": schema})
    await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))


def _note_saved(samples: Sequence[ScoredSample], trajectories: Sequence[Trajectory]) -> None:
    for sample in samples:
        sample.trajectory.state = TrajectoryState.SCORED
    for trajectory in (*trajectories, *(sample.trajectory for sample in samples)):
        trajectory.saved_segments = len(trajectory.segments)
