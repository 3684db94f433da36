"""Splits the iterations of a recorded run into their parts, by what its pods noted. Pure, but for reading the file."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_rollout.storage.history import ActivityRecord
from tandem_rollout.storage.history_file import open_history

SETTLED_AFTER = 5
"""Iterations that are left out at the beginning: caches and connections are new."""


@dataclass(frozen=True)
class Run:
    """Medians over the iterations, in seconds."""

    iteration: float
    phases: Mapping[str, float]
    work: Mapping[str, float]
    """rollouts, training, weights: measured where the work is done."""
    orchestration: float
    """The rest of an iteration."""
    to_training: Mapping[str, float]
    """Parts from the last token to the first kernel of the training step."""
    to_inference: Mapping[str, float]
    """Parts from the optimiser step to the first request that the engine has."""
    tokens_each: float
    """Tokens of an answer."""


@dataclass(frozen=True)
class _Split:
    seconds: float
    work: Mapping[str, float]
    to_training: Mapping[str, float]
    to_inference: Mapping[str, float]


def read_run(home: Path, name: str) -> Run:
    """The run `name` below $TANDEM_HOME, which has one hybrid pod. Raises StatisticsError if it was too short."""
    with open_history(next((home / "runs" / name).rglob("replay.sqlite"))) as history:
        records = {record.iteration: record for record in history.iterations() if record.iteration > SETTLED_AFTER}
        noted: defaultdict[int, list[ActivityRecord]] = defaultdict(list)
        for activity in history.activities():
            noted[activity.iteration].append(activity)
    splits = [
        _split(noted[number], noted[number + 1], record.metrics["train_seconds"])
        for number, record in records.items()
        # What a restart interrupted has gaps.
        if {each.name for each in noted[number]} >= _NEEDED
        and any(each.name == "rollout" for each in noted[number + 1])
    ]
    phases = {name: statistics.median(r.phase_seconds[name] for r in records.values()) for name in _PHASES}
    return Run(
        iteration=statistics.median(split.seconds for split in splits),
        phases=phases,
        work=_medians([split.work for split in splits]),
        orchestration=statistics.median(split.seconds - sum(split.work.values()) for split in splits),
        to_training=_medians([split.to_training for split in splits]),
        to_inference=_medians([split.to_inference for split in splits]),
        tokens_each=statistics.median(record.metrics["response_tokens"] for record in records.values()),
    )


_PHASES = ("Rollout", "Draining", "Training", "Publishing", "Loading")
_NEEDED = {"rollout", "pause", "release", "train", "publish", "receive", "update", "probe"}


def _split(activities: Sequence[ActivityRecord], following: Sequence[ActivityRecord], train_seconds: float) -> _Split:
    """One iteration, from its first request to that of the next."""
    found = {activity.name: activity for activity in sorted(activities, key=lambda each: each.started_at, reverse=True)}
    last = {activity.name: activity for activity in sorted(activities, key=lambda each: each.started_at)}
    rollout, release, train, publish = (found[name] for name in ("rollout", "release", "train", "publish"))
    receive, update, probe = last["receive"], last["update"], last["probe"]
    next_request = next(activity.started_at for activity in following if activity.name == "rollout")
    first_kernel = train.ended_at - train_seconds
    ready = max(receive.ended_at, last["start"].ended_at if "start" in last else 0.0)
    drained = min(found["pause"].started_at, release.started_at)
    to_training = {
        "next phase": drained - rollout.ended_at,
        "pause, release": release.ended_at - drained,
        "batch recorded, next phase": train.started_at - release.ended_at,
        "batch fetched": first_kernel - train.started_at,
    }
    to_inference = {
        "acknowledged, next phase": publish.started_at - train.ended_at,
        "written to shared memory": publish.ended_at - publish.started_at,
        "committed, next phase": receive.started_at - publish.ended_at,
        "received and verified, engine started": ready - receive.started_at,
        "paused": update.started_at - ready,
        "loaded by vLLM": update.ended_at - update.started_at,
        "probed": probe.ended_at - probe.started_at,
        "first request": next_request - probe.ended_at,
    }
    weights = ("written to shared memory", "received and verified, engine started", "loaded by vLLM", "probed")
    work = {
        "rollouts": rollout.ended_at - rollout.started_at,
        "training": train_seconds,
        "weights": sum(to_inference[part] for part in weights),
    }
    return _Split(next_request - rollout.started_at, work, to_training, to_inference)


def _medians(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in parts) for name in parts[0]}
