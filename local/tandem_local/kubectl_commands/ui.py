"""kubectl tandem ui"""

from tandem_local.commands.ui import Browser, Port
from tandem_local.kubectl_commands.options import Context, Job, Kubeconfig, Namespace, open_kubectl


def ui(
    job: Job,
    port: Port = 0,
    browser: Browser = True,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Open the page of a job that runs: curves, timeline of the pods, weight versions, and a browser of all answers.

    The job's master serves it; it is reached by kubectl port-forward until Ctrl-C. You need the right to read the
    job's Secret and to forward ports to its pods.

    Examples:

    - `kubectl tandem ui addition`
    - `kubectl tandem ui addition -n team-a --port 8080 --no-browser`
    """
    from tandem_local.web_page.cluster import forward_page

    forward_page(open_kubectl(namespace, context, kubeconfig), job, port, open_browser=browser)
