"""Shows a run in the terminal, redrawn in place."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tandem_core.coordination.records import Summary
from tandem_core.phases import Phase

from tandem_local.progress import Pace, RewardHistory, describe_changes, describe_duration, sparkline
from tandem_local.run_state import Condition, ContainerState, PodState, RunState, RunStatus

_SPARKLINE_WIDTH = 48
_STYLES = {
    Condition.RUNNING: "green",
    Condition.COMPLETED: "green",
    Condition.STARTING: "yellow",
    Condition.WAITING: "dim",
    Condition.STOPPED: "dim",
    Condition.BACK_OFF: "bold red",
    Condition.FAILED: "bold red",
}


class LiveView:
    """A context manager around rich's Live; events are printed above the picture."""

    def __init__(self, console: Console) -> None:
        # Drawn by `show` only: no thread of its own beside the one that starts processes.
        self._live = Live(console=console, auto_refresh=False)
        self._before: RunState | None = None
        self._pace = Pace()
        self._rewards = RewardHistory()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, state: RunState) -> None:
        """Draw the state."""
        now = time.monotonic()
        for line in describe_changes(self._before, state):
            self._live.console.print(Text.assemble((time.strftime("%H:%M:%S "), "dim"), line))
        self._before = state
        if state.summary is not None:
            self._pace.observe(state.summary.phase, state.summary.iteration, now)
            self._rewards.observe(state.summary)
        rewards = [self._rewards.rewards[iteration] for iteration in sorted(self._rewards.rewards)]
        remaining = self._pace.remaining_seconds(state.summary.iterations) if state.summary else None
        self._live.update(build_picture(state, rewards, remaining, time.time()), refresh=True)


def build_picture(state: RunState, rewards: list[float], remaining_seconds: float | None, now: float) -> RenderableType:
    """All of the picture. Pure: `now` is Unix time in seconds."""
    parts: list[RenderableType] = [_build_progress(state, remaining_seconds, now)]
    if state.summary is not None:
        parts.append(_build_numbers(state.summary, rewards))
        if state.summary.phase_seconds:
            parts.append(_build_phases(state.summary))
        if state.summary.message:
            parts.append(Text(state.summary.message))
        if state.summary.problem:
            parts.append(Text(state.summary.problem, style="yellow"))
    parts.append(_build_pods(state.pods))
    hint = "Ctrl-C again ends it at once" if state.status is RunStatus.STOPPING else "Ctrl-C stops it"
    subtitle = None if state.status.final else f"[dim]{hint}[/]"
    return Panel(Group(*parts), title=f"[bold]{state.job}[/] {state.status}", subtitle=subtitle, title_align="left")


def _build_progress(state: RunState, remaining_seconds: float | None, now: float) -> RenderableType:
    summary = state.summary
    row = Table.grid(padding=(0, 2))
    phase = summary.phase if summary else "waiting for the job to report"
    elapsed = describe_duration((state.ended_at or now) - state.started_at)
    left = f", about {describe_duration(remaining_seconds)} left" if remaining_seconds is not None else ""
    bar = ProgressBar(total=summary.iterations, completed=_finished(summary), width=30) if summary else Text("")
    count = f"iteration {summary.iteration}/{summary.iterations}" if summary else ""
    row.add_row(Text(str(phase), style="bold cyan"), count, bar, f"{elapsed}{left}")
    return row


def _finished(summary: Summary) -> int:
    return summary.iteration if summary.phase is Phase.DONE else max(0, summary.iteration - 1)


def _build_numbers(summary: Summary, rewards: list[float]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    if summary.reward is not None:
        average = "" if summary.reward_average is None else f"average {summary.reward_average:.3f}"
        line = sparkline(rewards, _SPARKLINE_WIDTH)
        table.add_row("reward", f"[bold]{summary.reward:.3f}[/]  {average}  [magenta]{line}[/]")
    if summary.accuracy is not None:
        before = "" if summary.accuracy_before is None else f"  (before: {summary.accuracy_before:.1%})"
        table.add_row("held-out", f"[bold]{summary.accuracy:.1%}[/]{before}")
    speed = "" if summary.tokens_per_second is None else f"{summary.tokens_per_second:,.0f} tokens/s  "
    length = "" if summary.response_tokens is None else f"{summary.response_tokens:.1f} tokens an answer  "
    carried = f"{summary.carried_over} answers carried over  " if summary.carried_over else ""
    pods = f"{summary.inference_tokens:,} tokens by inference pods" if summary.inference_tokens else ""
    table.add_row("answers", f"{summary.samples:,} trained on  {speed}{length}{carried}{pods}")
    version = "none" if summary.version < 0 else str(summary.version)
    loss = "" if summary.loss is None else f"  loss {summary.loss:.4g}"
    behind = f"  oldest token {summary.versions_behind} versions behind" if summary.versions_behind else ""
    table.add_row("weights", f"version {version}  engines serving: {summary.engines_serving}{behind}{loss}")
    return table


def _build_phases(summary: Summary) -> RenderableType:
    total = sum(summary.phase_seconds.values()) or 1.0
    shares = [
        f"{phase} {describe_duration(seconds)} ({seconds / total:.0%})"
        for phase, seconds in summary.phase_seconds.items()
        if seconds > 0
    ]
    return Text("  ".join(shares), style="dim")


def _build_pods(pods: tuple[PodState, ...]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for pod in pods:
        replaced = f" (replaced {pod.replaced} times)" if pod.replaced else ""
        containers = Text("  ").join(_build_container(item) for item in pod.containers)
        table.add_row(pod.name + replaced, f"[dim]{pod.address}[/]", containers)
    return table


def _build_container(container: ContainerState) -> Text:
    condition = str(container.condition)
    if container.condition is Condition.RUNNING and not container.ready:
        condition = "not ready"
    restarts = f" (restarts: {container.restarts})" if container.restarts else ""
    return Text(f"{container.name} {condition}{restarts}", style=_STYLES[container.condition])
