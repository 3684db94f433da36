"""tandem render"""

from pathlib import Path
from typing import Annotated

import typer


def render(
    file: Annotated[Path, typer.Argument(help="YAML file with one RLJob.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the job first; may be repeated."),
    ] = None,
    etcd: Annotated[str, typer.Option(help="host:port of etcd, as pods reach it.")] = "etcd.tandem-system:2379",
) -> None:
    """Print the Kubernetes objects that the operator makes of a job, as YAML.

    For reading and comparing: the operator also fills in the job's uid and its token.

    Examples:

    - `tandem render job.yaml`
    - `tandem render job.yaml | kubectl apply --dry-run=server -f -`
    """
    import yaml
    from tandem_core.job import load_job
    from tandem_operator.build import BuildSettings, build_objects

    objects = build_objects(load_job(file, settings or []), BuildSettings(etcd_endpoints=etcd))
    print(yaml.safe_dump_all(objects, sort_keys=False), end="")
