"""tandem ps"""

from typing import Annotated

import typer


def ps(
    job: Annotated[str | None, typer.Argument(help="Show the pods of this run.", show_default=False)] = None,
) -> None:
    """List the runs on this machine, or the pods of one.

    Examples:

    - `tandem ps`
    - `tandem ps addition`
    """
    from rich.console import Console

    from tandem_local.listing import build_pod_table, build_run_table
    from tandem_local.run_directory import find_run, list_runs, tandem_home

    console = Console()
    if not console.is_terminal:
        console.width = 200
    if job is None:
        console.print(build_run_table(list_runs(tandem_home())))
    else:
        console.print(build_pod_table(find_run(tandem_home(), job)))
