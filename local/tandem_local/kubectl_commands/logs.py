"""kubectl tandem logs"""

from typing import Annotated

import typer

from tandem_local.kubectl_commands.options import Context, Job, Kubeconfig, Namespace, open_source


def logs(
    job: Job,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="POD[/CONTAINER]", help="Whose output: the beginning of a name is enough; left out: all."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the containers end.")] = False,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of the containers before their restart.")] = False,
    tail: Annotated[int, typer.Option("--tail", min=0, help="Lines from the end of each log.")] = 100,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what a job's containers print, each line with its pod and container.

    Examples:

    - `kubectl tandem logs addition master -f`
    - `kubectl tandem logs addition hybrid-0/trainer --tail 1000`
    - `kubectl tandem logs addition hybrid-0/inference --previous`
    """
    from tandem_local.inspection.cluster_logs import print_logs

    options = [f"--tail={tail}", *(["--follow"] if follow else []), *(["--previous"] if previous else [])]
    source = open_source(namespace, context, kubeconfig)
    raise typer.Exit(print_logs(source.list_log_commands(job, target, *options)))
