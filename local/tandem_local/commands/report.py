"""tandem report"""

from pathlib import Path
from typing import Annotated

import typer


def report(
    job: Annotated[str | None, typer.Argument(help="The run; left out: the newest.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it; left out: into the run's directory.")
    ] = None,
) -> None:
    """Write the HTML report of a run: rewards, accuracy, time line, samples. It can be asked for while the job runs.

    Examples:

    - `tandem report`
    - `tandem report addition -o addition.html`
    """
    from tandem_core.errors import TandemError
    from tandem_core.job import load_job

    from tandem_local.outcome import find_history
    from tandem_local.report import write_report
    from tandem_local.run_directory import find_run, tandem_home

    run = find_run(tandem_home(), job)
    rl_job = load_job(run.job_file)
    history = find_history(run, rl_job)
    if history is None:
        raise TandemError(f"run {run.name} has recorded nothing yet in {run.path}/volumes: is its master running?")
    target = output or run.report_file
    write_report(history, rl_job, target)
    print(target)
