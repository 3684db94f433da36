"""tandem scale"""

from typing import Annotated

import typer


def scale(
    job: Annotated[str, typer.Argument(help="The run.", show_default=False)],
    pods: Annotated[int, typer.Argument(help="How many inference pods it is to have.", min=0, show_default=False)],
) -> None:
    """Add inference pods to a run, or remove some, while it goes on.

    Inference pods are engines without a trainer: they generate answers while the hybrid pods train, too. The job says
    how many there may be (spec.elastic.min and max). A pod that is removed hands its unfinished answers back first.

    Examples:

    - `tandem run job.yaml --set spec.elastic.max=2 --detach`, then `tandem scale NAME 2`
    - `tandem scale addition 0`
    """
    import asyncio

    from tandem_local.run_directory import find_run, tandem_home
    from tandem_local.scaling import scale_run

    asyncio.run(scale_run(find_run(tandem_home(), job), pods))
    print(f"{job} is to have {pods} inference pods: tandem ps {job}")
