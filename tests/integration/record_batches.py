"""Generates, scores and records batches without end, and notes what it gave out: killed by the tests.

python record_batches.py <url> <log file>
"""

import asyncio
import hashlib
import json
import os
import sys
from typing import Any

import numpy as np
from tandem_rollout.storage.replay_buffer import ReplayBuffer
from tandem_rollout.trajectory import FinishReason, Group, Score, ScoredSample, Segment, Trajectory, VersionSpan

GROUPS, GROUP_SIZE, IN_BATCH = 4, 2, 3
BATCH_BYTES = 2_000_000  # large, so that most kills fall into the transaction that records it


def answer(trajectory: Trajectory, iteration: int) -> ScoredSample:
    count = 5 + trajectory.index
    trajectory.append(
        Segment(
            np.full(count, trajectory.group_id, np.int32),
            np.zeros(count, np.float32),
            (VersionSpan(iteration - 1, count),),
            FinishReason.STOP,
            iteration,
        )
    )
    return ScoredSample(trajectory, f"answer {trajectory.id}", Score(1.0, {"exact": 1.0}, True))


def note(log: Any, **facts: Any) -> None:
    """On disk before anything else happens, as a trainer's checkpoint would be."""
    log.write(json.dumps(facts) + "\n")
    log.flush()
    os.fsync(log.fileno())


async def finish(buffer: ReplayBuffer, groups: list[Group], iteration: int) -> None:
    samples = [answer(each, iteration) for group in groups for each in group.trajectories if not each.segments]
    await buffer.save(samples)


async def record(url: str, log: Any) -> None:
    async with ReplayBuffer(url, "kill-test") as buffer:
        while True:
            iteration = await buffer.last_recorded_iteration() + 1
            await finish(buffer, await buffer.open_groups(), iteration)
            created = await buffer.create_groups(iteration, range(GROUPS), GROUP_SIZE)
            await finish(buffer, created, iteration)
            note(log, saved=[group.id for group in created])
            scored = (await buffer.scored_groups())[:IN_BATCH]
            data = json.dumps([group.id for group in scored]).encode() + os.urandom(BATCH_BYTES)
            note(log, recording=iteration)
            given_out = await buffer.record_batch(iteration, data, scored)
            note(log, iteration=iteration, digest=hashlib.sha256(given_out).hexdigest())
            await buffer.mark_trained(iteration, {"loss": 1.0})


def main(url: str, log_file: str) -> None:
    with open(log_file, "a") as log:
        asyncio.run(record(url, log))


if __name__ == "__main__":
    main(*sys.argv[1:])
