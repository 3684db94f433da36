"""What the commands `status`, `top`, `samples` and `diagnose` do, wherever the job runs."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from tandem_local.inspection.diagnosis import LOG_LINES, NOTHING_FOUND, build_files, describe_findings, write_files
from tandem_local.inspection.facts import JobFacts
from tandem_local.inspection.findings import find_problems
from tandem_local.inspection.job_text import build_jobs, build_status
from tandem_local.inspection.sample_text import build_samples, describe_none
from tandem_local.inspection.source import JobSource
from tandem_local.inspection.waits import find_waits

WIDTH = 200
"""Where no terminal says how wide it is."""


def show_status(source: JobSource, name: str, watch_seconds: float | None) -> None:
    """Print how the job is; with `watch_seconds` again each time, until it has ended."""

    def look() -> tuple[RenderableType, bool]:
        facts, now = source.observe(name), time.time()
        return build_status(facts, find_waits(facts, now), now), facts.finished

    _show(look, watch_seconds)


def show_jobs(list_jobs: Callable[[], list[JobFacts]], watch_seconds: float | None) -> None:
    """Print all jobs; with `watch_seconds` again each time, until interrupted."""

    def look() -> tuple[RenderableType, bool]:
        jobs, now = list_jobs(), time.time()
        if not jobs:
            return Text("no jobs"), False
        return build_jobs(jobs, [find_waits(facts, now) for facts in jobs], now), False

    _show(look, watch_seconds)


def show_samples(source: JobSource, name: str, iteration: int | None, limit: int) -> None:
    """Print answers that the job was trained on."""
    samples = source.read_samples(name, iteration, limit)
    _console().print(build_samples(samples) if samples else Text(describe_none(iteration)))


def write_diagnosis(source: JobSource, name: str, output: Path | None) -> None:
    """Write the file, and print what seems to be wrong and where the file is. Raises TandemError."""
    now = time.time()
    path = output or Path(f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.tar.gz")
    collection = source.collect(name, LOG_LINES)
    write_files(build_files(collection, now), path, now)
    console = Console(soft_wrap=True)  # lines are for searching, too
    found = collection.redactor.text(describe_findings(find_problems(collection.facts, now))).strip()
    console.print(Text(found, style="" if found == NOTHING_FOUND else "yellow"))
    console.print(
        Text(f"{path}: objects, Events, logs and state in etcd, without secrets; read it before you share it")
    )


def _show(look: Callable[[], tuple[RenderableType, bool]], watch_seconds: float | None) -> None:
    console = _console()
    picture, ended = look()
    if watch_seconds is None:
        console.print(picture)
        return
    with Live(picture, console=console, auto_refresh=False) as live:
        while not ended:
            time.sleep(watch_seconds)
            picture, ended = look()
            live.update(picture, refresh=True)


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    return console
