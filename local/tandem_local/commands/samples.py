"""tandem samples"""

from typing import Annotated

import typer


def samples(
    job: Annotated[str | None, typer.Argument(help="The run; left out: the newest.", show_default=False)] = None,
    iteration: Annotated[
        int | None, typer.Option("--iteration", "-i", min=1, help="Whose answers; left out: the newest's.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="How many answers.")] = 8,
) -> None:
    """Show prompts, answers and rewards that a run was trained on, also while it goes on.

    Examples:

    - `tandem samples`
    - `tandem samples addition --iteration 12 --limit 32`
    """
    from tandem_local.inspection.machine_source import MachineSource
    from tandem_local.inspection.showing import show_samples
    from tandem_local.run_directory import find_run, tandem_home

    home = tandem_home()
    show_samples(MachineSource(home), find_run(home, job).name, iteration, limit)
