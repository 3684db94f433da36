"""tandem top"""

from typing import Annotated

import typer


def top(
    watch: Annotated[
        float | None, typer.Option("--watch", "-w", metavar="SECONDS", min=0.5, help="Look again every so often.")
    ] = None,
) -> None:
    """Show all runs on this machine: how far they are, how fast, and what they wait for.

    Examples:

    - `tandem top`
    - `tandem top --watch 2`
    """
    from tandem_local.inspection.machine_source import MachineSource
    from tandem_local.inspection.showing import show_jobs
    from tandem_local.run_directory import tandem_home

    show_jobs(MachineSource(tandem_home()).list_jobs, watch)
