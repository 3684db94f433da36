"""tandem status"""

from typing import Annotated

import typer


def status(
    job: Annotated[str | None, typer.Argument(help="The run; left out: the newest.", show_default=False)] = None,
    watch: Annotated[
        float | None, typer.Option("--watch", "-w", metavar="SECONDS", min=0.5, help="Look again every so often.")
    ] = None,
) -> None:
    """Show how a run is: phase, what it waits for, pods, and where the seconds of its iterations went.

    Examples:

    - `tandem status`
    - `tandem status addition --watch 2`
    """
    from tandem_local.inspection.machine_source import MachineSource
    from tandem_local.inspection.showing import show_status
    from tandem_local.run_directory import find_run, tandem_home

    home = tandem_home()
    show_status(MachineSource(home), find_run(home, job).name, watch)
