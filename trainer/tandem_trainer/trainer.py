"""The Megatron side of a trainer rank, behind one class."""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from tandem_core.batches import TrainingBatch
from tandem_core.job import RLJob

from tandem_trainer import cpu_shim
from tandem_trainer.architecture import load_architecture
from tandem_trainer.checkpoint import Checkpoints
from tandem_trainer.checkpoint_files import Progress
from tandem_trainer.export import export_model
from tandem_trainer.flops import count_training_flops, observe_peak_flops
from tandem_trainer.initial_weights import RandomWeights, SafetensorsDirectory, has_weights, load_pieces
from tandem_trainer.layout import Layout
from tandem_trainer.learning_rate import plan_learning_rate
from tandem_trainer.losses import supervised_loss
from tandem_trainer.model import build_config, build_model
from tandem_trainer.naming import OwnedSlice, Piece, name_parameters, own_slices
from tandem_trainer.offload import Offload
from tandem_trainer.optimizer import allocate_state, build_optimizer, wrap_model
from tandem_trainer.packing import PackingLimits
from tandem_trainer.parallel import join_process_group, leave_process_group, plan_patience, split_model
from tandem_trainer.step import TrainingStep, summarise_iteration

_log = structlog.get_logger(__name__)
_WARMUP_WINDOW = 10
"""Steps over which the warm-up's loss is averaged."""


class Trainer:
    """One rank of the model in training.

    Every method that trains, saves, exports, offloads or loads back is collective: all ranks call it, in the same
    order.
    """

    rank: int
    """This process among all trainer ranks."""
    world_size: int
    """All trainer ranks."""
    trained: int
    """-1: initial weights; 0: the warm-up is behind it; i: iteration i is."""
    warmup_step: int
    """The next step of the warm-up."""

    def __init__(self, job: RLJob, model_dir: Path, checkpoint_dir: Path) -> None:
        """Build the model and load the newest readable checkpoint, else the initial weights.

        torchrun's environment variables (RANK, WORLD_SIZE, MASTER_ADDR, ...) must be set; this makes the process group.
        Raises TandemError for a model or layout that cannot be trained.
        """
        spec = job.spec
        cpu_shim.install()
        logging.getLogger("megatron").setLevel(logging.ERROR)  # it warns of every model and save in its usual form
        patience = plan_patience(spec.deadlines)
        device = join_process_group(spec.hybrid, patience)
        self._spec, self._model_dir = spec, model_dir
        self._layout = split_model(spec.hybrid, spec.seed, patience)
        self._architecture = load_architecture(model_dir)
        config = build_config(self._architecture, spec.hybrid.trainer, self._layout, device)
        model = build_model(config, self._architecture, self._layout, device)
        self._bare = model.module if config.bf16 else model
        self._model = wrap_model(config, model)
        self._peak_flops = observe_peak_flops(device, config.params_dtype) * self._layout.world_size
        self._optimizer = build_optimizer(config, self._model, spec.algorithm)
        allocate_state(self._optimizer)
        self._step = TrainingStep(
            self._model,
            self._optimizer,
            config,
            self._architecture,
            self._layout,
            _packing_limits(spec.hybrid.trainer.tokens_per_microbatch, self._layout, config, device.type),
            spec.rollout.policy_temperature,
        )
        self._checkpoints = Checkpoints(
            checkpoint_dir / "state", spec.checkpoint.keep, asdict(self._architecture), self._bare, self._optimizer
        )
        self._offload = Offload(self._model, self._optimizer)
        self.rank, self.world_size = self._layout.rank, self._layout.world_size
        progress = self._checkpoints.load_newest()
        if progress is None:
            self._load_initial_weights()
            progress = Progress()
        self.trained, self.warmup_step = progress.trained, progress.warmup_step
        self._warmup_losses = list(progress.warmup_losses)
        gc.freeze()  # all this stays: Megatron collects garbage at each save, and need not walk through it (0.3 s)

    def warmup(self, fetch: Callable[[int], TrainingBatch], on_step: Callable[[int, float], None]) -> dict[str, float]:
        """Supervised fine-tuning from `warmup_step` on, until steps or stopLoss; then trained = 0.

        `fetch(step)` gives the examples of a step, the same on every rank; `on_step(step, loss)` is told of each step
        done, on every rank, with the same loss, and may save a checkpoint. Returns loss (mean of the last 10 steps),
        steps and train_seconds.
        """
        warmup, started = self._spec.warmup, time.monotonic()
        while self.warmup_step < warmup.steps and not self._warm_enough():
            step = self.warmup_step
            result = self._step.imitate(fetch(step), supervised_loss, warmup.learning_rate)
            self._warmup_losses = [*self._warmup_losses, result.loss][-_WARMUP_WINDOW:]
            self.warmup_step = step + 1
            on_step(step, result.loss)
            self._checkpoints.finish_if_written()
        self.trained = max(self.trained, 0)
        losses, self._warmup_losses = self._warmup_losses, []
        return {
            "loss": sum(losses) / max(1, len(losses)),
            "steps": float(self.warmup_step),
            "train_seconds": time.monotonic() - started,
        }

    def train(self, batch: TrainingBatch) -> dict[str, float]:
        """One iteration; then trained = batch.iteration. Returns metrics, the same on all ranks: loss, gradient_norm,
        logprob_difference_mean, logprob_difference_max, kl, tokens, train_seconds, model_flops_utilisation (0 to 1).

        Raises ValueError for a batch that is not the next one.
        """
        if batch.iteration != self.trained + 1 or self.trained < 0:
            raise ValueError(f"batch of iteration {batch.iteration} given, trained is {self.trained}")
        started = time.monotonic()
        self._checkpoints.finish_if_written()
        algorithm = self._spec.algorithm
        steps = self._step.train(
            batch, algorithm, plan_learning_rate(algorithm, batch.iteration, batch.iterations or self._spec.iterations)
        )
        self.trained = batch.iteration
        metrics = summarise_iteration(steps, started)
        flops = count_training_flops(self._architecture, batch.lengths.tolist()) if steps else 0.0
        achieved = flops / metrics["train_seconds"]
        # A machine that did other work as well when it was measured can do more than was seen then.
        self._peak_flops = max(self._peak_flops, achieved)
        metrics["model_flops_utilisation"] = achieved / self._peak_flops
        return metrics

    @property
    def checkpoint_problem(self) -> str:
        """What is wrong with the newest checkpoint; empty on all ranks or on none."""
        return self._checkpoints.problem

    @property
    def checkpoints_kept(self) -> tuple[int, ...]:
        """`trained` of the checkpoints that can be gone back to, the oldest first."""
        return self._checkpoints.kept

    def owned_slices(self) -> Iterator[OwnedSlice]:
        """What this rank holds of the model, under Hugging Face names. Every data-parallel replica yields its own copy;
        `replica` tells them apart: the slices of replica 0 of all ranks make up the model exactly once."""
        return own_slices(self._pieces(), self._layout)

    def save_checkpoint(self) -> None:
        """Start saving the present state; training may go on at once. It counts after finish_saving or a later save;
        train and warmup complete it too once its files are written. If that fails, `checkpoint_problem` tells."""
        losses = tuple(self._warmup_losses)
        self._checkpoints.save(Progress(trained=self.trained, warmup_step=self.warmup_step, warmup_losses=losses))

    def finish_saving(self) -> None:
        """Wait until the save that was started is complete; nothing to do if none was."""
        self._checkpoints.finish()

    def export_hugging_face(self, directory: Path) -> None:
        """Write the model as a Hugging Face directory (on a disk that all ranks share) for transformers and vLLM."""
        export_model(self.owned_slices(), self._model_dir, directory)

    def offload(self) -> None:
        """Give up the accelerator's memory: weights, gradients and optimiser state go to the CPU."""
        self._offload.offload()

    def load_back(self) -> None:
        """Take back what offload gave up; nothing to do if it was not called."""
        self._offload.load_back()

    def close(self) -> None:
        """Finish saving and leave the process group."""
        self._checkpoints.close()
        leave_process_group()

    def _load_initial_weights(self) -> None:
        started = time.monotonic()
        for parameter in self._bare.parameters():
            parameter.data.zero_()  # padding of the vocabulary stays so
        if has_weights(self._model_dir):
            with SafetensorsDirectory(self._model_dir) as source:
                load_pieces(self._pieces(), source)
        else:
            load_pieces(self._pieces(), RandomWeights(self._model_dir, self._spec.seed))
        self._optimizer.reload_model_params()
        _log.info("loaded initial weights", seconds=round(time.monotonic() - started, 3), model=str(self._model_dir))

    def _pieces(self) -> Iterator[Piece]:
        layers = self._bare.decoder.layers
        first_layer = layers[0].layer_number - 1 if len(layers) else 0
        return name_parameters(self._bare.named_parameters(), first_layer, self._architecture, self._layout)

    def _warm_enough(self) -> bool:
        losses = self._warmup_losses
        return len(losses) == _WARMUP_WINDOW and sum(losses) / len(losses) <= self._spec.warmup.stop_loss


def _packing_limits(tokens_per_microbatch: int, layout: Layout, config: Any, device: str) -> PackingLimits:
    multiple = 64 if device == "cuda" else 1  # matrix units want round sizes
    if config.sequence_parallel and multiple % layout.tensor_size:
        multiple *= layout.tensor_size
    return PackingLimits(tokens_per_microbatch, layout.data_size, multiple, layout.pipeline_size)
