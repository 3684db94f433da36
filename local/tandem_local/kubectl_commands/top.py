"""kubectl tandem top"""

from typing import Annotated

import typer

from tandem_local.kubectl_commands.options import Context, Kubeconfig, Namespace, Watch, open_source


def top(
    watch: Watch = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show all jobs of a namespace: how far they are, how fast, and what they wait for.

    Examples:

    - `kubectl tandem top -A`
    - `kubectl tandem top -n team-a --watch 5`
    """
    from tandem_local.inspection.showing import show_jobs

    source = open_source(namespace, context, kubeconfig)
    options = ("--all-namespaces",) if all_namespaces else ()
    show_jobs(lambda: source.list_jobs(*options), watch)
