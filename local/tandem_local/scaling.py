"""Asks a run for more or fewer inference pods."""

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.records import Control
from tandem_core.coordination.store import Store
from tandem_core.errors import TandemError
from tandem_core.job import RLJob

from tandem_local.machine import observe_machine
from tandem_local.prepare import RunPlan, load_plan
from tandem_local.process_table import is_alive
from tandem_local.run_directory import RunDirectory

_PATIENCE_SECONDS = 10.0


class CannotScale(TandemError):
    """The run cannot have so many inference pods."""


async def scale_run(directory: RunDirectory, count: int) -> None:
    """Ask the run's runner for `count` inference pods; it follows within a second.

    Raises CannotScale for a run that is not going on, and for more or fewer pods than spec.elastic allows or the
    machine has room for.
    """
    state = directory.read_state()
    if state is None or state.status.final or not is_alive(state.runner):
        raise CannotScale(f"{directory.name} is not running: start it with `tandem run`, see `tandem ps`")
    plan = load_plan(directory)
    check_count(plan.job, count)
    check_devices(plan, count, len(observe_machine().gpus))
    keys = JobKeys(plan.job.metadata.uid)
    async with Store(state.etcd_endpoint, patience_seconds=_PATIENCE_SECONDS) as store:
        control = await store.get(keys.control, Control) or Control()
        await store.put(keys.control, control.model_copy(update={"inference_pods": count}))


def check_count(job: RLJob, count: int) -> None:
    """Raises CannotScale if spec.elastic does not allow `count` inference pods."""
    elastic, name = job.spec.elastic, job.metadata.name
    if not elastic.min <= count <= elastic.max:
        raise CannotScale(
            f"{name} may have {elastic.min} to {elastic.max} inference pods (spec.elastic.min and max), not {count}: "
            f"to allow more, stop it and go on with `tandem run FILE --resume --set spec.elastic.max={count}`"
        )


def check_devices(plan: RunPlan, count: int, gpus: int) -> None:
    """Raises CannotScale if `count` inference pods and all others need more than `gpus` GPUs."""
    sizes = [count if workload.replicas is not None else len(workload.pods) for workload in plan.workloads]
    running = [pod for workload, size in zip(plan.workloads, sizes, strict=True) for pod in workload.pods[:size]]
    needed = sum(pod.devices for pod in running)
    if needed > gpus:
        raise CannotScale(f"with {count} inference pods {plan.job.metadata.name} needs {needed} GPUs, {gpus} are there")
