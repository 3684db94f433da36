"""A replay buffer with very many answers, written at once."""

import random
from collections.abc import Iterator, Sequence
from itertools import batched
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from tandem_core.coordination.records import Activity
from tandem_rollout.storage.database import open_database
from tandem_rollout.storage.groups import trajectory_id
from tandem_rollout.storage.history import EvaluationSample, ServedRecord
from tandem_rollout.storage.replay_buffer import ReplayBuffer
from tandem_rollout.storage.tables import GroupRow, Table, TrajectoryRow

GROUP_SIZE = 8
GROUPS_AN_ITERATION = 25
ENGINES = ("sums-hybrid-0", "sums-hybrid-1", "sums-inference-x2x4z")
HOSTILE = "<script>document.title = 'taken over'</script><img src=x onerror=\"document.title = 'taken over'\">&amp;"
"""The text of the last group's last answer: it must stay text."""
STEPS = (
    "First I write the numbers under each other and add the ones.",
    "Carry the one, then the tens.",
    "Let me check that again: 7 + 8 is 15, so the last digit is 5.",
    "Wait, I have forgotten the carry.",
    "The hundreds stay as they are.",
    "Adding both gives the sum that was asked for.",
)


async def fill(url: str, uid: str, answers: int) -> None:
    """So many scored answers in groups of GROUP_SIZE, GROUPS_AN_ITERATION of which are one iteration's batch."""
    async with ReplayBuffer(url, uid):
        pass
    groups = range(1, answers // GROUP_SIZE + 1)
    draw = random.Random(3)
    thoughts = [" ".join(draw.choices(STEPS, k=1 + int(draw.paretovariate(1.2)) % 60)) for _ in range(500)]
    database = open_database(url, uid, 10.0)
    try:
        await _write(database.write, GroupRow, (_group(number) for number in groups))
        await _write(database.write, TrajectoryRow, _answers(groups, thoughts, draw))
    finally:
        await database.dispose()


async def _write(write: Any, table: type[Table], rows: Iterator[dict[str, Any]]) -> None:
    for some in batched(rows, 10_000):

        async def add(connection: AsyncConnection, some: Sequence[dict[str, Any]] = some) -> None:
            await connection.execute(insert(table), list(some))

        await write(add)


def _group(number: int) -> dict[str, Any]:
    iteration = iteration_of(number)
    prompt = f"What is {number * 37 % 900 + 100} + {number * 91 % 900 + 100}? Think first, then write the sum."
    return {
        "id": number,
        "prompt_id": number % 8000,
        "prompt": prompt,
        "created_iteration": iteration,
        "trained_iteration": iteration,
    }


def iteration_of(group: int) -> int:
    """Whose batch has the group."""
    return (group - 1) // GROUPS_AN_ITERATION + 1


def _answers(groups: range, thoughts: Sequence[str], draw: random.Random) -> Iterator[dict[str, Any]]:
    for group in groups:
        skill = group / groups[-1]
        for place in range(GROUP_SIZE):
            last = group == groups[-1] and place == GROUP_SIZE - 1
            correct = draw.random() < 0.3 + 0.6 * skill
            form = round(draw.random() ** (1 - 0.6 * skill), 2)
            text = HOSTILE if last else _text(draw.choice(thoughts), group, correct)
            yield {
                "id": trajectory_id(group, place),
                "group_id": group,
                "place": place,
                "state": "scored",
                "length": len(text) // 4,
                "finish_reason": "stop" if correct else draw.choice(("stop", "length", "repetition")),
                "first_version": max(0, iteration_of(group) - 2),
                "last_version": iteration_of(group) - 1,
                "text": text,
                "reward": round(correct * 0.8 + form * 0.2, 4),
                "parts": {"exact": float(correct), "format": form},
                "correct": correct,
                "pieces": _pieces(text, iteration_of(group)),
            }


def _text(thoughts: str, group: int, correct: bool) -> str:
    total = (group * 37 % 900 + 100) + (group * 91 % 900 + 100) + (0 if correct else len(thoughts) % 90 + 1)
    return f"{thoughts}\nThe sum is {total} ✓"


def _pieces(text: str, iteration: int) -> list[list[Any]]:
    """The first half by the version before the last one."""
    half = len(text) // 2
    version = iteration - 1
    if not version:
        return [[iteration, 0, len(text) // 4, len(text), "stop"]]
    return [
        [iteration - 1, version - 1, len(text) // 8, half, "budget"],
        [iteration, version, len(text) // 4 - len(text) // 8, len(text) - half, "stop"],
    ]


async def add_history(buffer: ReplayBuffer, iterations: int, start: float) -> None:
    """Metrics, phases, activities, served versions and evaluations, from the Unix time `start` on."""
    draw = random.Random(5)
    await buffer.record_iteration(0, version=0, metrics={}, phase_seconds={"Warmup": 31.0, "Publishing": 0.2})
    for iteration in range(1, iterations + 1):
        skill = iteration / iterations
        seconds = {
            "Rollout": 5 + 3 * draw.random() + (9 if iteration % 41 == 7 else 0),
            "Draining": 0.2 + 0.1 * draw.random(),
            "Training": 3.5 + 0.5 * draw.random(),
            "Publishing": 0.15 + 0.05 * draw.random(),
            "Loading": 0.6 + 0.2 * draw.random(),
        }
        metrics = {
            "reward": 0.35 + 0.5 * skill + draw.gauss(0, 0.05),
            "response_tokens": 60 + 50 * skill + draw.gauss(0, 6),
            "response_tokens_max": 700 + 200 * draw.random(),
            "loss": 0.3 - 0.2 * skill + draw.gauss(0, 0.02),
            "gradient_norm": 1 + draw.random(),
            "logprob_difference_mean": 0.002 + 0.0005 * draw.random(),
            "truncated": 0.1 * draw.random(),
            "repetitive": 0.03 * draw.random(),
            "continued": 0.2 + 0.1 * draw.random(),
            "versions_behind": 0.3 * draw.random(),
            "versions_behind_max": float(draw.randrange(1, 3)),
            "tokens_per_second": 3000 + 500 * draw.random(),
            "samples": 200.0,
            "trained_samples": 200.0,
        }
        await buffer.record_iteration(iteration, version=iteration, metrics=metrics, phase_seconds=seconds)
        if iteration > iterations - 30:  # what the page shows first
            await _add_work(buffer, iteration, start, seconds)
        if iteration % max(1, iterations // 6) == 0:
            await buffer.record_evaluation(iteration, iteration, _evaluation(0.4 + 0.5 * skill))
        start += sum(seconds.values())


async def _add_work(buffer: ReplayBuffer, iteration: int, start: float, seconds: dict[str, float]) -> None:
    rollout, drained, trained, published, loaded = (
        start + sum(list(seconds.values())[: number + 1]) for number in range(5)
    )
    served = []
    for number, pod in enumerate(ENGINES):
        late = 0.3 * number
        own = number < 2
        spans = [("generate", start + late, rollout)] if own else [("generate", start, loaded - 0.3)]
        if own:
            spans += [("release", rollout, drained), ("load", drained - 0.1, drained + 0.4)]
            spans += [("train", drained + 0.4, trained), ("publish", trained, published)]
            spans += [("offload", published, published + 0.3)]
        spans.append(("update", published + late / 2, loaded))
        await buffer.add_activities(
            pod, iteration, [Activity(name=name, started_at=begin, ended_at=end) for name, begin, end in spans]
        )
        end = rollout if own else loaded - 0.2
        served.append(ServedRecord(pod, iteration - 1 - (number == 2 and iteration % 5 == 0), start + late, end))
    await buffer.add_served(served)


def _evaluation(share: float) -> list[EvaluationSample]:
    return [EvaluationSample(number, "2 + 2?", "4", "4", (1,), 1.0, number < round(50 * share)) for number in range(50)]
