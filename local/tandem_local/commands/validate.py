"""tandem validate"""

from importlib.util import find_spec
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

    A task of reasoning-gym is looked up where that library is installed; files that pods will see are not looked for.
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
    from tandem_rollout.sources import build_reasoning_gym

    console = Console(soft_wrap=True)
    bad = 0
    for file in files:
        try:
            job = load_job(file, settings or [])
            objects = build_objects(job, BuildSettings(etcd_endpoints="etcd:2379"))
            if job.spec.data.reasoning_gym is not None and find_spec("reasoning_gym") is not None:
                build_reasoning_gym(job.spec.data.reasoning_gym, job.spec.seed)
        except TandemError as error:
            bad += 1
            place = "" if str(file) in str(error) else f"{file}: "
            console.print(Text.assemble(("bad ", "bold red"), f"{place}{error}"))
        else:
            console.print(Text.assemble(("ok  ", "bold green"), f"{file} ({len(objects)} Kubernetes objects)"))
    raise typer.Exit(2 if bad else 0)
