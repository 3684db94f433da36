"""One trainer rank: `python -m torch.distributed.run ... -m tandem_trainer` starts it in each process."""

import os
import sys
from pathlib import Path

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import new_member
from tandem_core.coordination.records import Ack, Role
from tandem_core.coordination.store import EtcdUnreachable
from tandem_core.environment import CHECKPOINT_ENGINE_PORT, EXIT_FOR_GOOD, PodEnvironment
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, load_job
from tandem_core.logs import configure_logs
from tandem_core.model_files import prepare_model

from tandem_trainer.coordination_thread import Coordination, CoordinationLost

log = structlog.get_logger()


def main() -> int:
    """Run the rank that torchrun's environment names; returns the exit code."""
    rank = os.environ.get("RANK", "0")
    configure_logs(part="trainer", rank=rank, pod=os.environ.get("TANDEM_POD_NAME", ""))
    try:
        environment = PodEnvironment.from_environment()
        job, access = load_job(environment.job_file), environment.etcd_access()
    except TandemError as error:
        log.error("cannot start", error=str(error))
        return EXIT_FOR_GOOD
    keys = JobKeys(environment.job_uid)
    member = new_member(Role.TRAINER, rank, environment.pod_name)
    follow_engine = job.spec.hybrid.inference.release != "none"
    try:
        with Coordination(access, keys, member, follow_engine=follow_engine) as coordination:
            try:
                model_dir = prepare_model(job.spec.model, environment.model_dir)
                return _follow_phases(environment, job, model_dir, coordination)
            except (EtcdUnreachable, CoordinationLost):
                raise
            except TandemError as error:
                log.error("cannot go on", error=str(error))
                _acknowledge_failure(job, coordination, str(error))
                return EXIT_FOR_GOOD
    except (EtcdUnreachable, CoordinationLost) as error:
        log.error("lost etcd, starting again", error=str(error))
        return 1


def _follow_phases(environment: PodEnvironment, job: RLJob, model_dir: Path, coordination: Coordination) -> int:
    if job.spec.hybrid.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # importing Megatron looks for GPUs
    # Megatron takes seconds to import; the rank is a member of the job meanwhile.
    from tandem_trainer.batch_client import BatchClient
    from tandem_trainer.loop import PhaseLoop
    from tandem_trainer.publication import agree_on_publisher
    from tandem_trainer.trainer import Trainer

    spec = job.spec
    if spec.hybrid.device == "gpu" and spec.hybrid.inference.release != "none":
        # After a loss the engines of other pods may be in the middle of a rollout phase.
        coordination.wait_for_devices(spec.deadlines.loading + spec.deadlines.rollout + spec.deadlines.draining)
    trainer = Trainer(job, model_dir, environment.checkpoint_dir)
    url = environment.url(CHECKPOINT_ENGINE_PORT)
    publisher = agree_on_publisher(
        trainer, environment.pod_name, url, environment.shm_dir, spec.hybrid.ranks_per_replica
    )
    token, trust = environment.token(), environment.client_context()
    with BatchClient(lambda: coordination.observe().master_url, token, trust) as batches:
        export_dir = environment.checkpoint_dir / "model"
        code = PhaseLoop(job, trainer, publisher, coordination, batches, export_dir).run()
    publisher.close()
    return code


def _acknowledge_failure(job: RLJob, coordination: Coordination, error: str) -> None:
    """Tell the master, which then fails the job; before the first phase there is none to tell."""
    try:
        phase = coordination.wait_for_phase(job.spec.deadlines.startup)
    except TimeoutError:
        log.error("no master took notice of the error", deadline_seconds=job.spec.deadlines.startup)
        return
    if phase.phase.final:
        return
    member = f"{Role.TRAINER}-{coordination.member.name}"
    ack = Ack(member=member, iteration=phase.iteration, phase=phase.phase, error=error)
    coordination.put(coordination.keys.ack(phase.iteration, phase.phase, member), ack)


if __name__ == "__main__":
    sys.exit(main())
