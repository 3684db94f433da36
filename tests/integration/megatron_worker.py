"""What each rank of test_megatron.py runs: all cases of one layout in one start, because the imports take longest.

Usage: megatron_worker.py PLAN.json, with torchrun's variables set. Writes result-<rank>.json beside the plan.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from tandem_core.batches import TrainingBatch
from tandem_core.errors import TandemError
from tandem_core.job import parse_job
from tandem_core.logs import configure_logs
from tandem_trainer.trainer import Trainer


def main() -> None:
    configure_logs()  # which takes a full disk calmly
    torch.use_deterministic_algorithms(True)  # a GPU otherwise adds up in another order each time
    plan_path = Path(sys.argv[1])
    plan = json.loads(plan_path.read_text())
    ports = iter(plan["ports"])
    results: dict[str, Any] = {}
    for name, case in plan["cases"].items():
        results[name] = run_case(case, ports)
    (plan_path.parent / f"result-{os.environ['RANK']}.json").write_text(json.dumps(results))


def start(case: dict[str, Any], checkpoints: str, ports: Any) -> Trainer:
    os.environ["MASTER_PORT"] = str(next(ports))
    return Trainer(parse_job(Path(case["job"]).read_text()), Path(case["model"]), Path(checkpoints))


def run_case(case: dict[str, Any], ports: Any) -> dict[str, Any]:
    output = Path(case["output"])
    output.mkdir(parents=True, exist_ok=True)
    first, second = (TrainingBatch.decode(Path(path).read_bytes()) for path in case["batches"])
    if case.get("warmup"):
        return {run: warm_up(case, output, run, first, ports) for run in ("whole", "resumed")}
    trainer = start(case, str(output / "checkpoints"), ports)
    result: dict[str, Any] = {"started_at": trainer.trained}
    trainer.export_hugging_face(output / "initial")
    slices = [{**vars(piece), "tensor": piece.tensor} for piece in trainer.owned_slices()]
    torch.save(slices, output / f"slices-{trainer.rank}.pt")
    if case.get("initial_only"):
        trainer.close()
        return result
    trainer.warmup(lambda step: first, lambda step, loss: None)
    result["first"] = trainer.train(first)
    if case.get("full_disk"):
        result["disk_full"] = fill_the_disk(trainer, output)
    trainer.export_hugging_face(output / "trained-1")
    trainer.save_checkpoint()  # written while the next iteration trains
    result["second"] = trainer.train(second)
    trainer.finish_saving()
    trainer.export_hugging_face(output / "trained-2")
    if case.get("damage"):
        trainer.save_checkpoint()
        trainer.finish_saving()
    trainer.close()
    if case.get("resume"):
        result["resumed"] = resume(case, case["resume"], second, output, ports)
    if case.get("damage"):
        damage_newest(output / "checkpoints" / "state")
        result["damaged"] = resume(case, str(output / "checkpoints"), second, output, ports, force_offload=True)
    return result


def fill_the_disk(trainer: Trainer, output: Path) -> list[str]:
    """What is said of a checkpoint and a model when the last rank's files may not grow beyond a few bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if trainer.rank == trainer.world_size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    model = ""
    try:
        trainer.save_checkpoint()
        trainer.finish_saving()
        trainer.export_hugging_face(output / "full")
    except TandemError as error:
        model = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return [trainer.checkpoint_problem, model]


def warm_up(case: dict[str, Any], output: Path, run: str, batch: TrainingBatch, ports: Any) -> dict[str, Any]:
    """The first run saves after step 11 and goes on; the second starts from there."""
    trainer = start(case, str(output / "checkpoints"), ports)
    losses: dict[int, float] = {}

    def on_step(step: int, loss: float) -> None:
        losses[step] = loss
        if run == "whole" and step == 11:
            trainer.save_checkpoint()

    first_step = trainer.warmup_step
    metrics = trainer.warmup(lambda step: batch, on_step)
    trainer.export_hugging_face(output / run)
    result = {"first_step": first_step, "losses": losses, "metrics": metrics, "trained": trainer.trained}
    trainer.close()
    return result


def resume(
    case: dict[str, Any], checkpoints: str, batch: TrainingBatch, output: Path, ports: Any, force_offload: bool = False
) -> dict[str, Any]:
    trainer = start(case, checkpoints, ports)
    result: dict[str, Any] = {"started_at": trainer.trained}
    if force_offload:
        result["bytes_while_offloaded"] = offload(trainer)
    trainer.load_back()
    trainer.export_hugging_face(output / "resumed-1")
    result["second"] = trainer.train(batch)
    trainer.export_hugging_face(output / "resumed-2")
    trainer.close()
    return result


def offload(trainer: Trainer) -> int:
    """Offloads, on a CPU too; returns the bytes that stay."""
    trainer._offload._on_gpu = True
    trainer.offload()
    return sum(storage.nbytes() for storage, _ in trainer._offload._moved) + sum(
        buffer.grad_data.untyped_storage().nbytes() for buffer in trainer._model.buffers
    )


def damage_newest(state: Path) -> None:
    """Flip one byte in the middle of the newest checkpoint, and leave a newer one half-written."""
    newest = sorted(state.iterdir())[-1]
    file = next(newest.glob("*.distcp"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    half = state / "99999999-00000000"
    half.mkdir()
    (half / file.name).write_bytes(data[:100])


if __name__ == "__main__":
    main()
