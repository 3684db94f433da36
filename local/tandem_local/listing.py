"""Tables of runs and pods."""

import time

from rich.table import Table
from rich.text import Text

from tandem_local.process_table import is_alive
from tandem_local.progress import describe_duration
from tandem_local.run_directory import RunDirectory
from tandem_local.run_state import RunState


def build_run_table(runs: list[RunDirectory]) -> Table:
    """A row for each run."""
    table = Table("job", "status", "phase", "iteration", "reward", "held-out", "pods", "time", box=None)
    for run in runs:
        state = run.read_state()
        if state is None:
            continue
        summary = state.summary
        ready = sum(all(item.ready for item in pod.containers) for pod in state.pods)
        table.add_row(
            state.job,
            describe_status(state),
            str(summary.phase) if summary else "",
            f"{summary.iteration}/{summary.iterations}" if summary else "",
            f"{summary.reward:.3f}" if summary and summary.reward is not None else "",
            f"{summary.accuracy:.1%}" if summary and summary.accuracy is not None else "",
            "" if state.status.final else f"{ready}/{len(state.pods)}",
            describe_duration((state.ended_at or time.time()) - state.started_at),
        )
    return table


def build_pod_table(run: RunDirectory) -> Table:
    """A row for each container."""
    state = run.read_state()
    title = f"{run.name}: {describe_status(state)}, {run.path}" if state else run.name
    table = Table(
        "pod", "address", "container", "state", "ready", "restarts", "process", "last message", box=None, title=title
    )
    for pod in state.pods if state else ():
        for container in pod.containers:
            table.add_row(
                pod.name,
                pod.address,
                container.name,
                str(container.condition),
                "yes" if container.ready else "no",
                str(container.restarts + pod.replaced),
                "" if container.pid is None else str(container.pid),
                Text(container.message),
            )
    return table


def describe_status(state: RunState) -> str:
    """The status; a run whose runner has died without a word is lost."""
    if not state.status.final and not is_alive(state.runner):
        return f"lost: tandem stop {state.job}"
    return str(state.status)
