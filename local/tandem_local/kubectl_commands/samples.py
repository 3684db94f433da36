"""kubectl tandem samples"""

from typing import Annotated

import typer

from tandem_local.kubectl_commands.options import Context, Job, Kubeconfig, Namespace, open_source


def samples(
    job: Job,
    iteration: Annotated[
        int | None, typer.Option("--iteration", "-i", min=1, help="Whose answers; left out: the newest's.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="How many answers.")] = 8,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show prompts, answers and rewards that a job was trained on, while its master runs.

    Examples:

    - `kubectl tandem samples addition`
    - `kubectl tandem samples addition --iteration 12 --limit 32`
    """
    from tandem_local.inspection.showing import show_samples

    show_samples(open_source(namespace, context, kubeconfig), job, iteration, limit)
