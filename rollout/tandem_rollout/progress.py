"""Saves answers as they grow: many in one transaction, so that saving does not slow generation down."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tandem_rollout.storage.replay_buffer import ReplayBuffer
from tandem_rollout.trajectory import ScoredGroup, ScoredSample, Trajectory, TrajectoryState

SAVE_SECONDS = 2.0
"""How much generation may be lost by a crash of the master in the middle of a rollout phase."""


class ProgressSaver:
    """Collects what is to be saved; `run` saves it every SAVE_SECONDS, `flush` now, `record` with a batch."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        self._buffer = buffer
        self._grown: dict[int, Trajectory] = {}
        self._scored: list[ScoredSample] = []
        self._something = asyncio.Event()
        self._writing = asyncio.Lock()

    def note_progress(self, trajectory: Trajectory) -> None:
        """The answer has new segments."""
        self._grown[trajectory.id] = trajectory
        self._something.set()

    def note_scores(self, samples: Sequence[ScoredSample]) -> None:
        """The answers are scored."""
        self._scored.extend(samples)
        self._something.set()

    async def flush(self) -> None:
        """Return when all that was noted is saved. Raises StorageError."""
        await self._save(self._buffer.save)

    async def record(
        self, iteration: int, data: bytes, groups: Sequence[ScoredGroup], metrics: Mapping[str, float]
    ) -> None:
        """The same, and record batch and metrics of `iteration`, in one transaction. Raises StorageError."""

        async def write(samples: Sequence[ScoredSample], trajectories: Sequence[Trajectory]) -> None:
            await self._buffer.record_batch(
                iteration, data, groups, samples=samples, trajectories=trajectories, metrics=metrics
            )

        await self._save(write)

    async def _save(self, write: Callable[[Sequence[ScoredSample], Sequence[Trajectory]], Awaitable[None]]) -> None:
        async with self._writing:
            scored, self._scored = self._scored, []
            grown, self._grown = self._grown, {}
            self._something.clear()
            # Answers grow while the database works: it gets copies, and what it has saved is noted here.
            unscored = [
                each
                for each in grown.values()
                if each.state != TrajectoryState.SCORED and len(each.segments) > each.saved_segments
            ]
            copies = [dataclasses.replace(each, segments=list(each.segments)) for each in unscored]
            await write(scored, copies)
            for trajectory, copy in zip(unscored, copies, strict=True):
                trajectory.saved_segments = copy.saved_segments

    async def run(self) -> None:
        """Save now and then until cancelled."""
        while True:
            await self._something.wait()
            await asyncio.sleep(SAVE_SECONDS)
            await self.flush()
