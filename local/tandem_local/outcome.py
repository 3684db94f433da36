"""What is told at the end of a run."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from tandem_core.errors import TandemError
from tandem_core.job import RLJob
from tandem_core.phases import TO_INFERENCE, TO_TRAINING
from tandem_rollout.page.phase_times import format_seconds, switch_seconds

from tandem_local.log_files import read_tail
from tandem_local.places import Places
from tandem_local.progress import describe_duration
from tandem_local.run_directory import RunDirectory
from tandem_local.run_state import Condition, RunState, RunStatus

_SQLITE_HEADER = b"SQLite format 3\0"
_LOG_LINES = 15
_MOST_LOGS = 2


@dataclass(frozen=True)
class Outcome:
    """Lines of text."""

    headline: str
    facts: tuple[tuple[str, str], ...]
    """Name and value."""
    log_tails: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The last lines of failed containers, by container."""


def observe_outcome(directory: RunDirectory, job: RLJob, state: RunState, places: Places) -> Outcome:
    """What came of a run that has ended; writes the report if there is anything to report."""
    facts = [*_describe_result(state), *_describe_switches(directory, job)]
    model = directory.claim(checkpoint_claim(job)) / "model"
    if (model / "config.json").is_file():
        facts.append(("trained model", str(model)))
    if write_report_if_possible(directory, job):
        facts.append(("report", str(directory.report_file)))
    facts.append(("logs", str(directory.logs)))
    elapsed = describe_duration((state.ended_at or state.started_at) - state.started_at)
    headline = f"{state.job} {state.status} after {elapsed}" + (f": {state.reason}" if state.reason else "")
    if state.status is RunStatus.STOPPED:
        facts.append(("continue", f"tandem run {directory.job_file} --resume"))
    tails = _failed_logs(state, places) if state.status is RunStatus.FAILED else ()
    return Outcome(headline, tuple(facts), tails)


def checkpoint_claim(job: RLJob) -> str:
    """The claim with the checkpoints and the trained model."""
    return job.spec.checkpoint.claim or f"{job.metadata.name}-checkpoints"


def find_history(directory: RunDirectory, job: RLJob) -> Path | None:
    """The replay buffer's SQLite file; None: it is elsewhere, or there is none yet."""
    for path in sorted(directory.claim(f"{job.metadata.name}-data").glob("*")):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER:
                    return path
    return None


def write_report_if_possible(directory: RunDirectory, job: RLJob) -> bool:
    """Whether there was anything to report, and the report is written."""
    from tandem_local.report import write_report  # heavy

    history = find_history(directory, job)
    if history is None:
        return False
    try:
        write_report(history, job, directory.report_file)
    except TandemError:
        return False
    return True


def _describe_result(state: RunState) -> list[tuple[str, str]]:
    summary = state.summary
    if summary is None:
        return []
    facts = [("iterations", f"{summary.iteration} of {summary.iterations}, {summary.samples:,} answers trained on")]
    if summary.accuracy is not None:
        before = "?" if summary.accuracy_before is None else f"{summary.accuracy_before:.1%}"
        facts.append(("held-out accuracy", f"{before} before, {summary.accuracy:.1%} after"))
    if summary.reward is not None:
        facts.append(("reward", f"{summary.reward:.3f} in the last iteration"))
    return facts


def _describe_switches(directory: RunDirectory, job: RLJob) -> list[tuple[str, str]]:
    from tandem_rollout.storage.history_file import open_history  # heavy

    path = find_history(directory, job)
    if path is None:
        return []
    try:
        with open_history(path) as history:
            records = history.iterations()
    except TandemError:
        return []
    facts = []
    for name, phases in (("train to infer", TO_INFERENCE), ("infer to train", TO_TRAINING)):
        seconds = switch_seconds(records, phases)
        if seconds:
            facts.append((name, f"{format_seconds(statistics.median(seconds))} (median of {len(seconds)} switches)"))
    return facts


def _failed_logs(state: RunState, places: Places) -> tuple[tuple[str, tuple[str, ...]], ...]:
    failed = [
        (pod.name, container.name)
        for pod in state.pods
        for container in pod.containers
        if container.condition in (Condition.FAILED, Condition.BACK_OFF)
    ]
    return tuple(
        (f"{pod}/{container}", tuple(read_tail(places.log_file(pod, container), _LOG_LINES)))
        for pod, container in failed[:_MOST_LOGS]
    )
