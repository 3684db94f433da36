"""tandem logs"""

from typing import Annotated

import typer


def logs(
    target: Annotated[
        str | None, typer.Argument(metavar="[POD[/CONTAINER]]", help="Whose output; left out: all.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Lines from the end of each log.")] = 100,
    job: Annotated[str | None, typer.Option("--job", "-j", help="The run; left out: the newest.")] = None,
) -> None:
    """Show what containers print.

    Several logs at a time are marked with their container's name.

    Examples:

    - `tandem logs` shows the newest run's last lines, of all containers
    - `tandem logs addition-hybrid-0/trainer -f`
    - `tandem logs addition-master-0 -n 1000`
    """
    from tandem_local.log_reader import print_logs
    from tandem_local.run_directory import find_run, tandem_home

    print_logs(find_run(tandem_home(), job), target, follow=follow, tail=tail)
