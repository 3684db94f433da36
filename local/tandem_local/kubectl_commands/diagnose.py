"""kubectl tandem diagnose"""

from pathlib import Path
from typing import Annotated

import typer

from tandem_local.kubectl_commands.options import Context, Job, Kubeconfig, Namespace, open_source


def diagnose(
    job: Job,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; left out: JOB-TIME.tar.gz, here.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say what seems to be wrong with a job, and collect what shows it in one file, without secrets.

    In the file: the diagnosis, the job with its conditions, pods and other objects, Events, the state in etcd, the
    newest iterations, and the end of each log (of containers before their restart, too). Values of variables,
    annotations and Secrets are left out; what a Secret holds is taken out of everything else, if you may read it.

    Examples:

    - `kubectl tandem diagnose addition`
    - `kubectl tandem diagnose addition -n team-a -o for-support.tar.gz`
    """
    from tandem_local.inspection.showing import write_diagnosis

    write_diagnosis(open_source(namespace, context, kubeconfig), job, output)
