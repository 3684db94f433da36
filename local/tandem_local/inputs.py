"""What a job names on this machine, looked at before anything starts."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tandem_core.job import RLJobSpec
from tandem_core.model_files import find_model
from tandem_rollout.sources import check_source


def check_inputs(spec: RLJobSpec) -> None:
    """Raises ModelFilesError or SourceError: no such model, file, or task of reasoning-gym."""
    if spec.model.path is not None:
        find_model(Path(spec.model.path))
    if spec.data.reasoning_gym is None:
        check_source(spec.data, spec.seed)
        return
    # In a process of its own: tasks bring libraries of 100 MB, which a runner would keep until the job's end.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(check_source, spec.data, spec.seed).result()
