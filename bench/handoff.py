"""Weights from the trainer's memory to an engine that serves them, against one memcpy of the same bytes.

    python -m bench.handoff [--sizes 256 1024] [--precisions bf16 fp32] [--no-write]

Random Qwen3-shaped models are named and published as a Megatron rank does, received and verified by the checkpoint
engine's code, and loaded into a real vLLM on CPU. Size 0 is the demo's model.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tandem_sidecar.follow import LoadedVersion
from tandem_sidecar.mapped_files import MappedFiles
from tandem_sidecar.receive import receive_version
from tandem_trainer.publish import checksum

from bench import handoff_tcp
from bench.handoff_model import TOKEN, Model, build_commit
from bench.page import describe_machine, write_section

ROUNDS, WARM_UP = 7, 2
OURS = ("--worker-extension-cls", "bench.handoff_engine.TandemWorkerExtension")
NATIVE = (
    *("--weight-transfer-config", '{"backend":"bare"}'),
    *("--worker-extension-cls", "bench.bare_weights.BareWorkerExtension"),
)
PASSES = """\
On CPUs the bytes are passed over six times until a version serves: copied, hashed and verified, copied into vLLM's
layers, packed by oneDNN, and read by the probe's forward pass. That is more than the three memcpys that were aimed at;
all passes share the memory's bandwidth. Engines on GPUs pack nothing."""
INSIDE = {
    "memcpy": "**one memcpy**, one thread",
    "copy": "copy to shared memory alone, one thread",
    "checksum": "checksum alone, one thread",
    "publish": "publish: copy, checksum",
    "receive": "receive: verify",
    "pause": "pause",
    "update": "update of vLLM:",
    "start": "- prepare layers",
    "load": "- copy and pack",
    "finish": "- finish",
    "probe": "probe: a token",
    "total": "**until it serves**",
    "native": "vLLM's reload of a safetensors file in shared memory, file written and probed",
}
OUTSIDE = {
    "memcpy": "**one memcpy**, one thread",
    "plain": "one plain socket",
    "fetch": "fetch, as checkpoint engines do",
    "verify": "verify",
}


class Rounds:
    """Seconds of each part, round by round."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, name: str, seconds: float) -> None:
        """Note a round of a part."""
        self._seconds[name].append(seconds)

    def cell(self, name: str) -> str:
        """Median after the warm-up in milliseconds, and as a multiple of the memcpy."""
        seconds, memcpy = (statistics.median(self._seconds[part][WARM_UP:] or [0.0]) for part in (name, "memcpy"))
        return f"{1e3 * seconds:.1f} ms, {seconds / memcpy:.2f}" if seconds else ""


def measure(directory: Path, precision: str, size_mib: int) -> tuple[str, Rounds]:
    """Heading and times of one model."""
    model, rounds = Model(directory, precision, size_mib), Rounds()
    measure_memory(model, rounds)
    asyncio.run(measure_handoff(model, rounds))
    asyncio.run(measure_native(model, rounds))
    measure_tcp(model, rounds)
    return f"{model.size_bytes / 1e6:.3g} MB {precision}", rounds


def measure_memory(model: Model, rounds: Rounds) -> None:
    """The memcpy, and the two halves of publishing by themselves, each with one thread and warm."""
    publisher = model.publisher("pod-0", handoff_tcp.URL)
    publisher.publish(0, model.slices())
    content = publisher._files[0].bytes
    source, target = content.clone(), content.clone()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(WARM_UP + ROUNDS):
        started = time.perf_counter()
        target.copy_(source)
        copied = time.perf_counter()
        content.copy_(source)
        written = time.perf_counter()
        checksum(content)
        rounds.add("memcpy", copied - started)
        rounds.add("copy", written - copied)
        rounds.add("checksum", time.perf_counter() - written)
    torch.set_num_threads(threads)
    publisher.close()


async def measure_handoff(model: Model, rounds: Rounds) -> None:
    """Publish, receive, load: a version each round."""
    parts_file = model.directory / "parts"
    os.environ["HANDOFF_PARTS"] = str(parts_file)
    publisher, files = model.publisher("pod-0", handoff_tcp.URL), MappedFiles()
    async with model.engine(*OURS) as engine:
        await engine.start()
        for version in range(WARM_UP + ROUNDS):
            engine.timeline.take()
            started = time.perf_counter()
            part = publisher.publish(version, model.slices())
            published = time.perf_counter()
            received = await receive_version([part], build_commit(part), "pod-0", model.directory, TOKEN, files=files)
            verified = time.perf_counter()
            await engine.load(LoadedVersion(version, part.incarnation), received.load_file)
            rounds.add("total", time.perf_counter() - started)
            rounds.add("publish", published - started)
            rounds.add("receive", verified - published)
            for activity in engine.timeline.take():
                rounds.add(activity.name, activity.ended_at - activity.started_at)
    for line in parts_file.read_text().splitlines():
        for name, seconds in json.loads(line).items():
            rounds.add(name, seconds)
    publisher.close()


async def measure_native(model: Model, rounds: Rounds) -> None:
    """A safetensors file, and vLLM's layerwise reload without anything of ours but the gate; nothing is verified."""
    file = model.directory / "native.safetensors"
    async with model.engine(*NATIVE) as engine:
        await engine.start()
        for version in range(WARM_UP + ROUNDS):
            started = time.perf_counter()
            save_file({owned.name: owned.tensor.contiguous() for owned in model.slices()}, file)
            await engine.load(LoadedVersion(version, "native"), file)
            rounds.add("native", time.perf_counter() - started)
    file.unlink()


def measure_tcp(model: Model, rounds: Rounds) -> None:
    """The whole version from another pod over loopback."""
    publisher = model.publisher("pod-1", handoff_tcp.URL)
    part = publisher.publish(0, model.slices())
    publisher.close()
    buffer = bytearray(part.file_bytes)
    with handoff_tcp.sending(model.directory, model.directory / part.file):
        for _ in range(WARM_UP + ROUNDS):
            received = handoff_tcp.receive(part, model.directory / "receiver")
            rounds.add("fetch", received.fetch_seconds)
            rounds.add("verify", received.verify_seconds)
            rounds.add("plain", handoff_tcp.receive_plain(buffer))


def build_page(columns: Sequence[tuple[str, Rounds]]) -> str:
    """The section: what, where, and the two tables."""
    cores = len(os.sched_getaffinity(0))
    return "\n".join(
        (
            "`python -m bench.handoff`. Milliseconds and multiples of one warm memcpy by one thread, medians of "
            f"{ROUNDS} rounds. Publishing, verifying and packing use {cores} threads, vLLM computes with one. "
            f"{describe_machine()}",
            "",
            PASSES,
            "",
            *_table("In one pod", columns, INSIDE),
            "",
            *_table("From another pod, TCP over loopback", columns, OUTSIDE),
        )
    )


def _table(title: str, columns: Sequence[tuple[str, Rounds]], rows: dict[str, str]) -> Iterator[str]:
    yield f"| {title} | {' | '.join(heading for heading, _ in columns)} |"
    yield "| --- " * (len(columns) + 1) + "|"
    for name, row in rows.items():
        yield f"| {row} | {' | '.join(rounds.cell(name) for _, rounds in columns)} |"


def main() -> None:
    """Measure, print, and write the page's section."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", type=int, nargs="*", default=[0, 256, 1024], help="MiB; 0: the demo's model")
    arguments.add_argument("--precisions", nargs="*", default=["bf16", "fp32"])
    arguments.add_argument("--no-write", action="store_true")
    options = arguments.parse_args()
    columns: list[tuple[str, Rounds]] = []
    for size_mib in options.sizes:
        for precision in options.precisions:
            directory = Path(tempfile.mkdtemp(prefix="tandem-handoff-", dir="/dev/shm"))
            try:
                columns.append(measure(directory, precision, size_mib))
            finally:
                shutil.rmtree(directory)
            print(build_page(columns[-1:]), flush=True)
    if not options.no_write:
        write_section("handoff", build_page(columns))


if __name__ == "__main__":
    main()
