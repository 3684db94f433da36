"""The loop around Megatron: carries out what `follow` plans, on every rank alike."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.records import Ack, Activity, PhaseRecord, Role
from tandem_core.errors import OutOfSpace
from tandem_core.job import RLJob
from tandem_core.job.operations import DeadlineSpec
from tandem_core.phases import Phase
from tandem_core.weights.manifest import ManifestPart

from tandem_trainer.batch_client import BatchClient
from tandem_trainer.checkpoint import CheckpointNotWritten
from tandem_trainer.coordination_thread import STOP_EXIT_CODE, Coordination, Observed
from tandem_trainer.follow import Action, Policy, Position, Step, plan_action
from tandem_trainer.publish import Publisher
from tandem_trainer.stopping import StoppingAt, agree_to_stop
from tandem_trainer.trainer import Trainer

log = structlog.get_logger()

RESTART_EXIT_CODE = 1
RETRY_SECONDS = 5.0
"""When a disk or shared memory is full; how long the phase may wait for room the master decides."""
WAIT_SECONDS = 600.0
"""How long a rank waits in silence before it logs that it still waits. How long a phase may take the master decides."""
WARMUP_STEPS_BETWEEN_CHECKPOINTS = 500
_MOST_ACTIVITIES = 32
"""In one acknowledgement: catching up with many iterations must not make it too large for etcd."""


class _Stopped(Exception):
    """Leaves the warm-up when the process has been asked to end."""


def build_policy(job: RLJob) -> Policy:
    """The job's settings that the plan depends on."""
    spec = job.spec
    return Policy(
        checkpoint_every=spec.checkpoint.every,
        engine_releases=spec.hybrid.inference.release != "none",
    )


def deadline_seconds(deadlines: DeadlineSpec, phase: Phase) -> float:
    """Longest time of the phase; in Done a rank may have to train what it missed."""
    return deadlines.training if phase.final else float(getattr(deadlines, phase.lower()))


@dataclass
class PhaseLoop:
    """One rank's way through the phases."""

    job: RLJob
    trainer: Trainer
    publisher: Publisher
    coordination: Coordination
    batches: BatchClient
    export_dir: Path
    _position: Position = field(init=False)
    _activities: list[Activity] = field(default_factory=list)
    _measurements: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._policy = build_policy(self.job)
        self._position = Position(trained=self.trainer.trained, saved=self.trainer.trained)
        self._note_checkpoint()
        self._steps: dict[Step, Callable[[PhaseRecord, Action], None]] = {
            Step.WARM_UP: self._warm_up,
            Step.TRAIN: self._train,
            Step.PUBLISH: self._publish,
            Step.RESTORE: self._restore,
            Step.SAVE: self._save,
            Step.EXPORT: self._export,
            Step.OFFLOAD: self._offload,
            Step.LOAD_BACK: self._load_back,
        }

    def run(self) -> int:
        """Follow the phases to the end; returns the process's exit code."""
        while True:
            seen = self.coordination.observe()
            if seen.stopping:
                return self._stop()
            action = plan_action(
                seen.phase,
                self._position,
                self._policy,
                engine_released=seen.engine_released,
                stop_wanted=seen.stop_wanted,
            )
            if action.step is Step.EXIT:
                if seen.phase is not None and seen.phase.phase is Phase.DONE:
                    self.trainer.close()  # together with the other ranks, which in Failed may be gone
                return 0
            if action.step is Step.RESTART:
                log.warning("the job goes on from earlier: back to the checkpoint", position=self._position)
                return RESTART_EXIT_CODE
            if action.step is Step.WAIT or seen.phase is None:
                self._wait(seen)
            elif action.step is Step.ACKNOWLEDGE:
                self._acknowledge(seen.phase)
            else:
                try:
                    self._carry_out(seen.phase, action)
                except _Stopped:
                    continue
                except OutOfSpace as error:
                    log.error("no room, trying again", step=action.step, error=str(error), seconds=RETRY_SECONDS)
                    self.coordination.report(str(error))
                    with contextlib.suppress(TimeoutError):
                        self.coordination.wait_for_change(seen, RETRY_SECONDS)

    def _wait(self, seen: Observed) -> None:
        try:
            self.coordination.wait_for_change(seen, WAIT_SECONDS)
        except TimeoutError:
            log.info("still waiting", phase=seen.phase, position=self._position, master=seen.master_url)

    def _acknowledge(self, phase: PhaseRecord) -> None:
        if phase.phase is Phase.DONE:
            self.trainer.finish_saving()
            if self._note_checkpoint():
                return
        member = f"{Role.TRAINER}-{self.trainer.rank}"
        ack = Ack(
            member=member,
            iteration=phase.iteration,
            phase=phase.phase,
            activities=tuple(self._activities[-_MOST_ACTIVITIES:]),
            measurements=self._measurements
            | {"oldest_checkpoint": float(max((0, *self.trainer.checkpoints_kept[:1])))},
        )
        self.coordination.put(self.coordination.keys.ack(phase.iteration, phase.phase, member), ack)
        self._activities, self._measurements = [], {}
        self._position = replace(self._position, acknowledged=phase)

    def _carry_out(self, phase: PhaseRecord, action: Action) -> None:
        started = time.time()
        self._steps[action.step](phase, action)
        ended = time.time()
        self._note_checkpoint()
        self._activities.append(Activity(name=action.step, started_at=started, ended_at=ended))
        log.info("done", step=action.step, iteration=action.iteration, phase=phase.phase, seconds=ended - started)

    def _warm_up(self, phase: PhaseRecord, action: Action) -> None:
        timeout_seconds = deadline_seconds(self.job.spec.deadlines, phase.phase)

        def fetch(step: int) -> TrainingBatch:
            return self.batches.fetch_warmup(step, timeout_seconds)

        self._measurements |= self.trainer.warmup(fetch, self._after_warmup_step)
        self._position = replace(self._position, trained=self.trainer.trained)

    def _after_warmup_step(self, step: int, loss: float) -> None:
        if (step + 1) % WARMUP_STEPS_BETWEEN_CHECKPOINTS == 0:
            log.info("warming up", step=step, loss=loss)
            self.trainer.save_checkpoint()
        if self.coordination.observe().stopping:
            raise _Stopped

    def _train(self, phase: PhaseRecord, action: Action) -> None:
        timeout_seconds = deadline_seconds(self.job.spec.deadlines, phase.phase)
        batch = self.batches.fetch_batch(action.iteration, timeout_seconds)
        self._measurements |= self.trainer.train(batch)
        self._position = replace(self._position, trained=self.trainer.trained)

    def _publish(self, phase: PhaseRecord, action: Action) -> None:
        started = time.monotonic()
        part = self.publisher.publish(action.iteration, self.trainer.owned_slices())
        self._measurements |= {
            "publish_seconds": time.monotonic() - started,
            "published_bytes": float(sum(piece.size_bytes for piece in part.slices)),
        }
        self._put_part(part)
        self._position = replace(self._position, attempt=phase.attempt)

    def _restore(self, phase: PhaseRecord, action: Action) -> None:
        """What is committed must stay what it is: other bytes than the attested ones are of no use to anyone."""
        key = self.coordination.keys.manifest_part(action.iteration, self.trainer.rank)
        attested = self.coordination.call(self.coordination.store.get(key, ManifestPart))
        self._position = replace(self._position, published=action.iteration)
        if attested is None or self.publisher.holds(attested):
            return
        written = self.publisher.publish(action.iteration, self.trainer.owned_slices())
        if written.slices == attested.slices:
            self._put_part(written.model_copy(update={"incarnation": attested.incarnation}))
        else:
            log.warning(
                "training again gave other weights than before: engines that lack this version wait for the next",
                version=action.iteration,
            )

    def _put_part(self, part: ManifestPart) -> None:
        self.coordination.put(self.coordination.keys.manifest_part(part.version, part.rank), part)
        self._position = replace(self._position, published=part.version)

    def _save(self, phase: PhaseRecord, action: Action) -> None:
        self.trainer.save_checkpoint()  # which completes the one before
        if phase.phase is Phase.DONE:
            self.trainer.finish_saving()
            if self.trainer.checkpoint_problem:  # no later iteration will make it good
                raise CheckpointNotWritten(self.trainer.checkpoint_problem)
        self._position = replace(self._position, saved=self._position.trained)

    def _note_checkpoint(self) -> bool:
        """Whether something is wrong with the newest checkpoint."""
        problem = self.trainer.checkpoint_problem
        self._position = replace(self._position, unsafe=bool(problem))
        self.coordination.report(problem)
        return bool(problem)

    def _export(self, phase: PhaseRecord, action: Action) -> None:
        self.trainer.export_hugging_face(self.export_dir)
        self._position = replace(self._position, exported=self._position.trained)

    def _offload(self, phase: PhaseRecord, action: Action) -> None:
        self.trainer.offload()
        self._position = replace(self._position, offloaded=True)

    def _load_back(self, phase: PhaseRecord, action: Action) -> None:
        if phase.phase in (Phase.DONE, Phase.PUBLISHING):  # in which engines give their devices up without a word
            self.coordination.wait_for_devices(self.job.spec.deadlines.draining)
        self.trainer.load_back()
        self._position = replace(self._position, offloaded=False)

    def _stop(self) -> int:
        """Save a checkpoint if the whole job ends; a pod that ends alone leaves it to the replay."""
        position, trainer = self._position, self.trainer
        place = f"{position.trained}/{trainer.warmup_step}/{position.saved}/{position.exported}/{position.offloaded}"
        own = StoppingAt(incarnation=self.publisher.publication.incarnation, place=place)
        store, keys = self.coordination.store, self.coordination.keys
        together = trainer.world_size == 1 or self.coordination.call(
            agree_to_stop(store, keys, trainer.rank, trainer.world_size, own)
        )
        if together and not position.offloaded:
            trainer.save_checkpoint()
            trainer.finish_saving()
            if not trainer.checkpoint_problem:
                log.info("saved a checkpoint on the way out", trained=position.trained, warmup_step=trainer.warmup_step)
        return STOP_EXIT_CODE
