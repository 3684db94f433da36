"""tandem stop"""

from typing import Annotated

import typer


def stop(
    job: Annotated[str | None, typer.Argument(help="The run; left out: the newest.", show_default=False)] = None,
    now: Annotated[bool, typer.Option("--now", help="End it at once, without time to save anything.")] = False,
) -> None:
    """Stop a run, and clean up after one whose `tandem run` was killed.

    Afterwards none of its processes, ports or shared memory is left. `tandem run FILE --resume` continues it.

    Examples:

    - `tandem stop`
    - `tandem stop addition --now`
    """
    from tandem_local.run_directory import find_run, tandem_home
    from tandem_local.stopping import stop_run

    run = find_run(tandem_home(), job)
    swept = stop_run(run, now=now)
    left = (
        f"; cleaned up {swept.processes} processes and {swept.files} places" if swept.processes or swept.files else ""
    )
    print(f"{run.name} is stopped{left}")
