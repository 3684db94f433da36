"""tandem validate"""

from pathlib import Path
from typing import Annotated

import typer


def validate(
    files: Annotated[list[Path], typer.Argument(help="YAML files with one RLJob each.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of each job first; may be repeated."),
    ] = None,
) -> None:
    """Check job files: fields, values, whether they fit together, and whether pods can be built of them.

    All problems are listed, with their place and what to write. Exit code 2 if there are any.

    Examples:

    - `tandem validate examples/*.yaml`
    - `tandem validate job.yaml --set spec.hybrid.trainer.tensorParallel=2`
    """
    from rich.console import Console
    from rich.text import Text
    from tandem_core.errors import TandemError
    from tandem_core.job import load_job
    from tandem_operator.build import BuildSettings, build_objects

    console = Console(soft_wrap=True)
    bad = 0
    for file in files:
        try:
            objects = build_objects(load_job(file, settings or []), BuildSettings(etcd_endpoints="etcd:2379"))
        except TandemError as error:
            bad += 1
            console.print(Text.assemble(("bad ", "bold red"), str(error)))
        else:
            console.print(Text.assemble(("ok  ", "bold green"), f"{file} ({len(objects)} Kubernetes objects)"))
    raise typer.Exit(2 if bad else 0)
