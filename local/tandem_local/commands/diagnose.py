"""tandem diagnose"""

from pathlib import Path
from typing import Annotated

import typer


def diagnose(
    job: Annotated[str | None, typer.Argument(help="The run; left out: the newest.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; left out: JOB-TIME.tar.gz, here.")
    ] = None,
) -> None:
    """Say what seems to be wrong with a run, and collect what shows it in one file, without secrets.

    In the file: the diagnosis, the job, its objects, the state in etcd, the newest iterations, and the end of each log.

    Examples:

    - `tandem diagnose`
    - `tandem diagnose addition -o for-support.tar.gz`
    """
    from tandem_local.inspection.machine_source import MachineSource
    from tandem_local.inspection.showing import write_diagnosis
    from tandem_local.run_directory import find_run, tandem_home

    home = tandem_home()
    write_diagnosis(MachineSource(home), find_run(home, job).name, output)
