"""Running a prepared job, in the terminal or in the background."""

import asyncio
import os
import subprocess
import sys
import time
from typing import TextIO, cast

import structlog
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tandem_core.errors import TandemError
from tandem_core.logs import LossyStream

from tandem_local.etcd_server import EtcdBinary, find_etcd
from tandem_local.live_view import LiveView
from tandem_local.outcome import Outcome, observe_outcome
from tandem_local.plain_view import PlainView
from tandem_local.prepare import RunPlan
from tandem_local.run_directory import HOME_VARIABLE
from tandem_local.run_state import RunState, RunStatus
from tandem_local.runner import Runner, View

_BACKGROUND_SECONDS = 90.0
_POLL_SECONDS = 0.1
_EXIT_CODES = {RunStatus.SUCCEEDED: 0, RunStatus.FAILED: 1, RunStatus.STOPPED: 130}


def run_in_foreground(plan: RunPlan, console: Console) -> int:
    """Run it and tell what came of it; returns the exit code: 0 done, 1 failed, 130 stopped."""
    etcd = find_etcd()
    plan.directory.make()
    with plan.directory.runner_log.open("a") as log_file:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.format_exc_info,
                structlog.dev.ConsoleRenderer(colors=False),
            ],
            logger_factory=structlog.WriteLoggerFactory(cast("TextIO", LossyStream(log_file))),
        )
        state = _run(plan, etcd, console)
    show_outcome(observe_outcome(plan.directory, plan.job, state, plan.places), state.status, console)
    return _EXIT_CODES[state.status]


def start_in_background(plan: RunPlan) -> RunState:
    """Start a runner of its own session and return once the pods are being started. Raises TandemError if it ends."""
    find_etcd()
    home = str(plan.directory.path.parent.parent)
    with plan.directory.runner_log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-m", "tandem_local", "serve", plan.directory.name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=plan.places.working_directory,
            env=os.environ | {HOME_VARIABLE: home},
            start_new_session=True,
        )
    deadline = time.monotonic() + _BACKGROUND_SECONDS
    while time.monotonic() < deadline:
        state = plan.directory.read_state()
        if state is not None and (state.status is RunStatus.RUNNING or state.status.final):
            return state
        if process.poll() is not None:
            break
        time.sleep(_POLL_SECONDS)
    raise TandemError(f"the run did not start in the background: see {plan.directory.runner_log}")


def show_outcome(outcome: Outcome, status: RunStatus, console: Console) -> None:
    """Print the end of a run."""
    style = {RunStatus.SUCCEEDED: "green", RunStatus.FAILED: "red"}.get(status, "yellow")
    for name, lines in outcome.log_tails:
        body = Text("\n".join(lines) or "(it wrote nothing)")
        console.print(Panel(body, title=f"last lines of {name}", title_align="left", border_style="dim"))
    table = Table.grid(padding=(0, 2))
    for name, value in outcome.facts:
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    console.print(Text(outcome.headline, style=f"bold {style}"))
    console.print(table)


def _run(plan: RunPlan, etcd: EtcdBinary, console: Console) -> RunState:
    async def run(view: View) -> RunState:
        return await Runner(plan, etcd, view).run()

    if console.is_terminal:
        with LiveView(console) as view:
            return asyncio.run(run(view))
    return asyncio.run(run(PlainView(sys.stdout)))
