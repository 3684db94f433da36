"""What a GPU adds to the handoff: weights from its memory and back into it, and training that makes room.

    python -m bench.gpu [--models 0.6b 4b] [--no-write]

Without a GPU all of it runs too, and shows nothing. The engine's side is what its workers do before vLLM's own loaders
take over: tensors are mapped, and copied to the GPU.
"""

import argparse
import asyncio
import gc
import mmap
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tandem_core.weights.layout import LoadFile
from tandem_core.weights.manifest import ManifestPart
from tandem_core.weights.pinned import pin_mapping
from tandem_sidecar.mapped_files import MappedFiles
from tandem_sidecar.mapped_tensors import map_tensors
from tandem_sidecar.receive import ReceivedVersion, receive_version
from tandem_trainer.publish import SLOTS, checksum

from bench.gpu_model import DEVICE, HandedOver, synchronize, training, used_device_bytes
from bench.handoff_model import TOKEN, build_commit
from bench.page import describe_machine, write_section

ROUNDS = 5


@dataclass(frozen=True)
class Memory:
    """Bytes of the GPU that a trainer takes."""

    held: int
    """Before offload, without the activations of a step."""
    kept: int
    """Of them, those that offload moves to the CPU; the others are gradients."""
    left: int
    """After offload."""


HANDOFF = {
    "out": "**one copy** from the GPU, into pinned memory",
    "publish first": "publish for the first time: shared memory is taken and pinned",
    "publish": "publish: copy, checksum",
    "verify": "checkpoint engine: verify",
    "in": "**one copy** to the GPU, from pinned memory",
    "load first": "load for the first time: files are mapped and pinned",
    "load": "load: mapped tensors to the GPU",
}
OFFLOAD = {
    "out": "**one copy** from the GPU, into pinned memory",
    "offload first": "offload for the first time: the CPU's memory is taken and pinned",
    "offload": "offload",
    "in": "**one copy** to the GPU, from pinned memory",
    "load back": "load back",
    "step": "(a training step of 4096 tokens)",
    "step after": "(the step after load back)",
}
MEMORY = {
    "held": "before offload",
    "kept": "of them weights and optimiser state, which go to the CPU",
    "left": "after offload, beside CUDA's context",
}
ONE_COPY = {"publish": "out", "publish first": "out", "load": "in", "load first": "in"}
ONE_COPY |= {"offload": "out", "offload first": "out", "load back": "in"}


class Times:
    """Seconds by part, for `size_bytes` each."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._seconds: dict[str, list[float]] = {}

    def take[T](self, name: str, call: Callable[[], T]) -> T:
        """Time a call, and what it left the GPU to do."""
        synchronize()
        started = time.perf_counter()
        result = call()
        synchronize()
        self._seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def cell(self, name: str) -> str:
        """Median in milliseconds, GB/s, and the multiple of the copy it is compared with."""
        seconds = statistics.median(self._seconds[name])
        if name.startswith("step"):
            return f"{1e3 * seconds:.0f} ms"
        text = f"{1e3 * seconds:.1f} ms, {self.size_bytes / seconds / 1e9:.1f} GB/s"
        if name in ONE_COPY:
            text += f", {seconds / statistics.median(self._seconds[ONE_COPY[name]]):.2f}"
        return text


def measure_copies(times: Times) -> None:
    """As many bytes from the GPU to the CPU and back, in one piece."""
    device = torch.ones(times.size_bytes, dtype=torch.uint8, device=DEVICE)
    host = pin_mapping(mmap.mmap(-1, times.size_bytes), "a benchmark")
    for _ in range(ROUNDS):
        times.take("out", lambda: host.copy_(device, non_blocking=True))
        times.take("in", lambda: device.copy_(host, non_blocking=True))


def measure_handoff(model: HandedOver) -> Times:
    """Publish, verify and load; raises AssertionError if a byte is not what it was."""
    times = Times(model.size_bytes)
    measure_copies(times)
    publisher, verified, loaded = model.publisher(), MappedFiles(), MappedFiles(pin_mapping)
    targets = {owned.name: torch.zeros_like(owned.tensor) for owned in model.slices()}

    def publish(version: int) -> ManifestPart:
        return publisher.publish(version, model.slices())

    def verify(part: ManifestPart) -> ReceivedVersion:
        commit = build_commit(part)
        return asyncio.run(receive_version([part], commit, "pod-0", model.directory, TOKEN, files=verified))

    def load(path: Path) -> None:
        for name, tensor in map_tensors(LoadFile.model_validate_json(path.read_bytes()), path.parent, loaded):
            targets[name].copy_(tensor)

    for version in range(2 * ROUNDS):
        first = " first" * (version < SLOTS)
        part = times.take(f"publish{first}", partial(publish, version))
        received = times.take(f"verify{first}", partial(verify, part))
        times.take(f"load{first}", partial(load, received.load_file))
    publisher.close()
    digests = {piece.name: piece.checksum for piece in part.slices}
    for owned in model.slices():
        assert torch.equal(targets[owned.name], owned.tensor), owned.name
        assert checksum(owned.tensor.cpu().contiguous().view(-1).view(torch.uint8)) == digests[owned.name], owned.name
    return times


def measure_offload(name: str, precision: str) -> tuple[Times, Memory]:
    """Offload and load back of a trainer, and what becomes of the GPU's memory."""
    gc.unfreeze()  # a trainer keeps others' garbage from being collected
    gc.collect()
    torch.cuda.empty_cache()
    before = used_device_bytes()
    with training(name, precision) as run:
        run.step()  # the first one prepares libraries
        times = Times(run.kept_bytes())
        measure_copies(times)
        times.take("step", run.step)
        for number in range(ROUNDS):
            torch.cuda.empty_cache()
            held = used_device_bytes()
            times.take("offload" if number else "offload first", run.trainer.offload)
            left = used_device_bytes()
            times.take("load back", run.trainer.load_back)
            times.take("step after", run.step)
    return times, Memory(held - before, times.size_bytes, left - before)


def build_page(handoffs: Sequence[tuple[str, Times]], offloads: Sequence[tuple[str, Times, Memory]]) -> str:
    """The section: what, where, and the tables."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return "\n".join(
        (
            f"`python -m bench.gpu`. Medians of {ROUNDS} rounds and more; last: multiple of the one copy. "
            f"{describe_machine(f'{name}, torch {torch.__version__}')}",
            "",
            *_table("Weights", [(heading, times) for heading, times in handoffs], HANDOFF),
            "",
            *_table("Training's memory", [(heading, times) for heading, times, _ in offloads], OFFLOAD),
            "",
            "| Bytes of the GPU, GB | " + " | ".join(heading for heading, _, _ in offloads) + " |",
            "| --- " * (len(offloads) + 1) + "|",
            *(
                f"| {row} | {' | '.join(f'{getattr(memory, name) / 1e9:.2f}' for _, _, memory in offloads)} |"
                for name, row in MEMORY.items()
            ),
        )
    )


def _table(title: str, columns: Sequence[tuple[str, Times]], rows: dict[str, str]) -> Iterator[str]:
    yield f"| {title} | {' | '.join(heading for heading, _ in columns)} |"
    yield "| --- " * (len(columns) + 1) + "|"
    for name, row in rows.items():
        yield f"| {row} | {' | '.join(times.cell(name) for _, times in columns)} |"


def main() -> None:
    """Measure, print, and write the page's section."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", nargs="*", default=["0.6b", "4b"])
    arguments.add_argument("--no-write", action="store_true")
    options = arguments.parse_args()
    handoffs: list[tuple[str, Times]] = []
    for name in options.models:
        directory = Path(tempfile.mkdtemp(prefix="tandem-gpu-", dir="/dev/shm"))
        try:
            times = measure_handoff(HandedOver(directory, name))
        finally:
            shutil.rmtree(directory)
        handoffs.append((f"{name} bf16, {times.size_bytes / 1e9:.2f} GB", times))
        print(build_page(handoffs, []), flush=True)
    offloads = [
        (f"{options.models[0]} {precision}", *measure_offload(options.models[0], precision))
        for precision in ("bf16", "fp32")
    ]
    page = build_page(handoffs, offloads)
    print(page, flush=True)
    if not options.no_write:
        write_section("gpu", page)


if __name__ == "__main__":
    main()
