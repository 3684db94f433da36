"""Options that all commands have, by kubectl's own names."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tandem_local.inspection.cluster_source import ClusterSource
    from tandem_local.inspection.kubectl import Kubectl

Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="The job's namespace; left out: the context's.")
]
Context = Annotated[str | None, typer.Option("--context", help="The context of the kubeconfig; left out: its current.")]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="The kubeconfig's file; left out: as kubectl finds it.")
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="The RLJob's name.", show_default=False)]
Watch = Annotated[
    float | None, typer.Option("--watch", "-w", metavar="SECONDS", min=0.5, help="Look again every so often.")
]


def open_source(namespace: str | None, context: str | None, kubeconfig: str | None) -> "ClusterSource":
    """The cluster that these options name."""
    from tandem_local.inspection.cluster_source import ClusterSource

    return ClusterSource(open_kubectl(namespace, context, kubeconfig))


def open_kubectl(namespace: str | None, context: str | None, kubeconfig: str | None) -> "Kubectl":
    """kubectl with these options."""
    from tandem_local.inspection.kubectl import Kubectl

    given = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
    return Kubectl(tuple(f"--{name}={value}" for name, value in given.items() if value))
