"""tandem run"""

from pathlib import Path
from typing import Annotated

import typer


def run(
    file: Annotated[Path, typer.Argument(help="YAML file with one RLJob.", show_default=False)],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run of this name where it stopped.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running in the background.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the job; may be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Another name for the job, and so for its directory.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove an earlier run of this name, its checkpoints included.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Start even if memory seems too small.")] = False,
) -> None:
    """Run a job on this machine: its pods become processes.

    The pods are the very same as on a cluster; each has an address of its own in 127.0.0.0/8. Everything is kept in
    `$TANDEM_HOME/runs/NAME` (default `~/.tandem`): logs, checkpoints, the trained model, the report.

    Ctrl-C stops the run so that `--resume` can continue it; a second Ctrl-C ends it at once.
    Exit codes: 0 done, 1 failed, 2 the job cannot be run, 130 stopped.

    Examples:

    - `tandem run examples/addition.yaml`
    - `tandem run job.yaml --set spec.iterations=10 --set spec.hybrid.replicas=2 --name small`
    - `tandem run job.yaml --detach`, then `tandem ps` and `tandem logs -f`
    - `tandem run job.yaml --resume`
    """
    from rich.console import Console
    from tandem_core.errors import TandemError

    from tandem_local.prepare import RunRequest, prepare_run
    from tandem_local.run_directory import tandem_home
    from tandem_local.run_job import run_in_foreground, start_in_background

    if resume and overwrite:
        raise TandemError("--resume continues the earlier run and --overwrite removes it: leave one of them out")
    request = RunRequest(file, tuple(settings or ()), name, resume, overwrite, force)
    plan = prepare_run(request, tandem_home())
    console = Console()
    if not detach:
        raise typer.Exit(run_in_foreground(plan, console))
    state = start_in_background(plan)
    console.print(f"{state.job} is {state.status} in the background: tandem ps {state.job}, tandem stop {state.job}")


def serve(name: str) -> None:
    """Run a prepared run: what `tandem run --detach` starts."""
    from rich.console import Console

    from tandem_local.prepare import load_plan
    from tandem_local.run_directory import find_run, tandem_home
    from tandem_local.run_job import run_in_foreground

    raise typer.Exit(run_in_foreground(load_plan(find_run(tandem_home(), name)), Console()))
