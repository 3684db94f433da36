"""tandem ui"""

from typing import Annotated

import typer

from tandem_local.kubectl_commands.options import Context, Kubeconfig, Namespace

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Where to listen on 127.0.0.1; 0: any free port.")]
Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open it, if there is a screen.")]


def ui(
    job: Annotated[str | None, typer.Argument(help="The run; left out: the newest.", show_default=False)] = None,
    port: Port = 0,
    browser: Browser = True,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Open a job's page: curves, timeline of the pods, weight versions, and a browser of all answers.

    While a job runs, its master serves the page. Of a run that has ended it is served from here until Ctrl-C. With
    --namespace, --context or --kubeconfig it is the page of a job on a cluster, through kubectl port-forward.

    Examples:

    - `tandem ui`
    - `tandem ui addition --port 8080 --no-browser`
    - `tandem ui addition --namespace team-a`
    """
    if namespace or context or kubeconfig:
        from tandem_core.errors import TandemError

        from tandem_local.kubectl_commands.options import open_kubectl
        from tandem_local.web_page.cluster import forward_page

        if job is None:
            raise TandemError("which job of the cluster? Name it: tandem ui JOB --namespace NAMESPACE")
        forward_page(open_kubectl(namespace, context, kubeconfig), job, port, open_browser=browser)
        return
    from tandem_local.run_directory import RunNotFound, find_run, tandem_home

    try:
        run = find_run(tandem_home(), job)
    except RunNotFound as error:
        raise RunNotFound(f"{error}. A job on a cluster: kubectl tandem ui {job or 'JOB'}") from error
    from tandem_local.web_page.machine import open_page

    open_page(run, port, open_browser=browser)
