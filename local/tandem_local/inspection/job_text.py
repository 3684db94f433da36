"""A job for the eyes: `status` and `top`. Pure: `now` is Unix time in seconds."""

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from tandem_core.coordination.records import Member
from tandem_core.job.status import RLJobStatus
from tandem_core.phases import Phase
from tandem_rollout.storage.history import IterationRecord

from tandem_local.inspection.facts import EventFacts, JobFacts, PodFacts
from tandem_local.inspection.waits import Wait
from tandem_local.progress import describe_duration

PHASES = (Phase.ROLLOUT, Phase.DRAINING, Phase.TRAINING, Phase.PUBLISHING, Phase.LOADING)
EVENTS = 12


def build_status(facts: JobFacts, waits: Sequence[Wait], now: float) -> RenderableType:
    """All of `status`."""
    parts: list[RenderableType] = [_build_head(facts, now), *_build_waits(facts, waits, now)]
    if facts.pods:
        parts += [_title("Pods"), _indent(build_pods(facts))]
    if facts.iterations:
        parts += [_title("Timeline (seconds)"), _indent(_build_timeline(facts, now))]
    happened = _build_history(facts)
    if happened.row_count:
        parts += [_title("What happened"), _indent(happened)]
    parts += [Text(f"not shown: {problem}", style="yellow") for problem in facts.problems]
    return Group(*parts)


def build_jobs(jobs: Sequence[JobFacts], waits: Sequence[Sequence[Wait]], now: float) -> Table:
    """A row for each job."""
    columns = ("job", "phase", "iteration", "reward", "held-out", "tokens/s", "hybrid", "inference", "age", "waits for")
    table = Table(*columns, box=None)
    for facts, own in zip(jobs, waits, strict=True):
        status = facts.status
        table.add_row(
            facts.name if facts.place == "this machine" else f"{facts.place.removeprefix('namespace ')}/{facts.name}",
            _describe_phase(facts),
            _describe_iteration(facts),
            _number(status.reward, ".3f"),
            _number(status.accuracy, ".1%"),
            _number(status.tokens_per_second, ",.0f"),
            status.hybrid or "",
            f"{status.inference_ready or 0}/{status.inference_replicas or 0}",
            describe_duration(_end(facts, now) - facts.created_at),
            Text(own[0].text if own else "", overflow="ellipsis", no_wrap=True),
        )
    return table


def build_pods(facts: JobFacts) -> Table:
    """A row for each pod, with what its engine does."""
    table = Table("pod", "state", "ready", "restarts", "node", "engine", "is not well", box=None)
    members = facts.snapshot.members if facts.snapshot is not None else ()
    for pod in facts.pods:
        engines = [member for member in members if member.pod == pod.name and member.engine is not None]
        table.add_row(
            pod.object_name,
            pod.state,
            "yes" if pod.ready else "no",
            str(pod.restarts),
            pod.node,
            ", ".join(map(_describe_engine, engines)),
            Text("; ".join(_list_ills(pod, members)), style="yellow"),
        )
    return table


def _build_head(facts: JobFacts, now: float) -> RenderableType:
    status = facts.status
    age = describe_duration(_end(facts, now) - facts.created_at)
    took = "took" if facts.finished else "for"
    iteration = _describe_iteration(facts)
    line = Text.assemble(
        (facts.name, "bold"),
        "  ",
        (_describe_phase(facts), "bold red" if status.phase is Phase.FAILED else "bold cyan"),
        f"{', iteration ' + iteration if iteration else ''}  ({facts.place}, {took} {age})",
    )
    return Group(line, Text(f"  {'   '.join(_list_numbers(status))}")) if _list_numbers(status) else line


def _list_numbers(status: RLJobStatus) -> list[str]:
    numbers = {
        "reward": _number(status.reward, ".3f"),
        "held-out": _number(status.accuracy, ".1%"),
        "answers trained on": _number(status.samples, ","),
        "tokens/s": _number(status.tokens_per_second, ",.0f"),
        "weights": _number(status.weight_version, "d"),
        "train to infer": _number(status.train_to_infer_seconds, ".2f", " s"),
        "infer to train": _number(status.infer_to_train_seconds, ".2f", " s"),
        "lost pods": _number(status.failures or None, "d"),
    }
    return [f"{name} {value}" for name, value in numbers.items() if value]


def _build_waits(facts: JobFacts, waits: Sequence[Wait], now: float) -> list[RenderableType]:
    if facts.finished:
        ends = [each for each in facts.status.conditions if each.status == "True" and each.type in _ENDS]
        style = "red" if any(end.type == "Failed" for end in ends) else "green"
        return [Text(f"  {end.type}: {end.message or end.reason}", style=style) for end in ends]
    if not waits:
        return [_title("Waits for nothing")]
    lines: list[RenderableType] = [_title("Waits for")]
    for wait in waits:
        since = f" (for {describe_duration(now - wait.since)})" if wait.since is not None else ""
        lines.append(_indent(Text(f"- {wait.text}{since}")))
        if wait.remedy:
            lines.append(_indent(Text(f"  -> {wait.remedy}", style="yellow")))
    return lines


_ENDS = ("Complete", "Failed")


def _build_timeline(facts: JobFacts, now: float) -> Table:
    table = Table("iteration", *PHASES, "whole", "reward", box=None)
    for column in table.columns:
        column.justify = "right"
    for record in [each for each in facts.iterations if each.iteration > 0 and each.phase_seconds][-10:]:
        seconds = [record.phase_seconds.get(phase) for phase in PHASES]
        whole = sum(each for each in seconds if each is not None)
        cells = [_number(each, ".2f") for each in (*seconds, whole)]
        table.add_row(str(record.iteration), *cells, _number(record.metrics.get("reward"), ".3f"))
    current = facts.snapshot.phase if facts.snapshot is not None else None
    if current is not None and not current.phase.final and not _is_done(facts.iterations, current.iteration):
        cells = [f"since {now - current.started_at:.1f}" if phase is current.phase else "" for phase in PHASES]
        table.add_row(str(current.iteration), *cells, style="cyan")
    return table


def _is_done(records: Sequence[IterationRecord], iteration: int) -> bool:
    return any(record.iteration == iteration and Phase.LOADING in record.phase_seconds for record in records)


def _build_history(facts: JobFacts) -> Table:
    """Events, or turns of conditions where there are none."""
    table = Table.grid(padding=(0, 2))
    turns = [
        EventFacts(
            each.last_transition_time.timestamp(),
            False,
            "",
            each.reason,
            each.message or f"{each.type} is {each.status}",
        )
        for each in facts.status.conditions
    ]
    events = list(facts.events or sorted(turns, key=lambda turn: turn.at))
    for event in events[-EVENTS:]:
        count = f" ({event.count} times)" if event.count > 1 else ""
        clock = time.strftime("%H:%M:%S", time.localtime(event.at))
        message = Text(event.message + count)  # not markup, whatever brackets are in it
        table.add_row(clock, event.about, event.reason, message, style="yellow" if event.warning else "")
    return table


def _describe_engine(member: Member) -> str:
    engine = member.engine
    if engine is None:
        return ""
    version = f" version {engine.version}" if engine.version >= 0 else ""
    return f"{engine.state}{version}"


def _list_ills(pod: PodFacts, members: Sequence[Member]) -> list[str]:
    """What is wrong with a pod, or was when a container of it last ended."""
    own = [f"{member.role}: {member.problem}" for member in members if member.pod == pod.name and member.problem]
    ends = [f"{item.name} ended: {item.last_end}" for item in pod.containers if item.last_end]
    return [*pod.troubles, *own, *ends]


def _describe_phase(facts: JobFacts) -> str:
    held = [each for each in facts.status.conditions if each.type == "Progressing" and each.status == "False"]
    stopped = held[0].reason if held and held[0].reason in ("Stopped", "Lost") else ""
    return stopped or ("Deleting" if facts.deleting else str(facts.status.phase or "Pending"))


def _describe_iteration(facts: JobFacts) -> str:
    if facts.status.iteration is None:
        return ""
    summary = facts.summary
    of = facts.job.spec.iterations if facts.job is not None else summary.iterations if summary is not None else "?"
    return f"{facts.status.iteration}/{of}"


def _end(facts: JobFacts, now: float) -> float:
    ended = facts.status.completion_time
    return ended.timestamp() if ended is not None else now


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _title(text: str) -> RenderableType:
    return Text(f"\n{text}", style="bold")


def _indent(what: RenderableType) -> RenderableType:
    return Padding(what, (0, 0, 0, 2))
