"""Publishing into real shared memory."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import xxhash
from tandem_core.weights.manifest import DTYPE_BYTES, ManifestPart
from tandem_trainer.naming import OwnedSlice
from tandem_trainer.publish import Publication, Publisher
from tandem_trainer.shard_file import SharedMemoryFull
from tandem_trainer.shard_layout import Box, choose_boxes, plan_layout

MIB = 1 << 20


def build_slices(seed: int) -> list[OwnedSlice]:
    """Whole and cut tensors, of two dtypes, contiguous and not, in one chunk and in several with a rest."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(130, 33, generator=generator)
    wide = torch.randn(16, 64, generator=generator)
    groups = torch.randn(5, 96, 2048, generator=generator)
    return [
        OwnedSlice("embedding", (130, 33), (0, 0), embedding),
        OwnedSlice("left", (16, 64), (0, 0), wide[:, :31]),
        OwnedSlice("right", (16, 64), (0, 31), wide[:, 31:].t().contiguous().t()),
        OwnedSlice("norm", (7,), (0,), torch.randn(7, generator=generator).bfloat16()),
        OwnedSlice("queries", (5 * 64, 2048), (0, 0), groups[:, :64]),
        OwnedSlice("keys", (5 * 32, 2048), (0, 0), groups[:, 64:]),
    ]


def build_publisher(shm_dir: Path, slices: list[OwnedSlice]) -> Publisher:
    publication = Publication(0, 1, "first", "pod-0", "http://127.0.0.1:8001", shm_dir)
    return Publisher(publication, plan_layout(Box.of(owned) for owned in slices))


def read(shm_dir: Path, part: ManifestPart) -> dict[tuple[str, tuple[int, ...]], bytes]:
    content = (shm_dir / part.file).read_bytes()
    assert len(content) == part.file_bytes
    return {(piece.name, piece.start): content[piece.offset : piece.offset + piece.size_bytes] for piece in part.slices}


def value_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def shm_dir() -> Iterator[Path]:
    directory = Path("/dev/shm") / f"tandem-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    subprocess.run(["rm", "-r", str(directory)], check=True)


def test_slices_are_published_byte_for_byte(shm_dir: Path) -> None:
    slices = build_slices(0)
    part = build_publisher(shm_dir, slices).publish(4, slices)
    written = read(shm_dir, part)
    assert written == {(owned.name, owned.start): value_bytes(owned.tensor) for owned in slices}
    for piece in part.slices:
        assert piece.offset % 64 == 0
        assert piece.checksum == xxhash.xxh3_64(written[piece.name, piece.start]).hexdigest()
    assert {piece.dtype for piece in part.slices} == {"F32", "BF16"} <= DTYPE_BYTES.keys()
    assert (part.version, part.file, part.pod) == (4, "weights/0/rank-0.bin", "pod-0")


def test_two_versions_stand_side_by_side(shm_dir: Path) -> None:
    publisher = build_publisher(shm_dir, build_slices(0))
    parts = [publisher.publish(version, build_slices(version)) for version in (0, 1, 2)]
    assert parts[0].file == parts[2].file != parts[1].file
    assert [publisher.holds(part) for part in parts] == [False, True, True]
    assert read(shm_dir, parts[1])["embedding", (0, 0)] == value_bytes(build_slices(1)[0].tensor)


def test_a_version_written_before_a_restart_is_recognised(shm_dir: Path) -> None:
    part = build_publisher(shm_dir, build_slices(0)).publish(3, build_slices(3))
    again = build_publisher(shm_dir, build_slices(0))
    assert again.holds(part)
    (shm_dir / part.file).unlink()
    assert not build_publisher(shm_dir, build_slices(0)).holds(part)


def test_a_file_that_engines_have_mapped_is_never_cut_short(shm_dir: Path) -> None:
    few = build_slices(0)[:1]
    old = build_publisher(shm_dir, build_slices(0)).publish(0, build_slices(0))
    with (shm_dir / old.file).open("rb") as reader:
        build_publisher(shm_dir, few).publish(0, few)
        assert len(reader.read()) == old.file_bytes


def test_a_pod_has_each_slice_once_and_every_pod_has_it() -> None:
    boxes = [Box.of(owned) for owned in build_slices(0)]
    everything = frozenset(box.identity for box in boxes)
    cut = frozenset(box.identity for box in boxes[:2])
    chosen = [choose_boxes(boxes, rank, 2, [cut, everything, everything, everything]) for rank in (1, 2, 3)]
    assert chosen == [boxes[2:], boxes, []]


def test_publishing_again_writes_to_warm_pages(shm_dir: Path) -> None:
    """128 MiB, 32768 pages: the first time each is made, then none."""
    tensor = torch.randn(4096, 8192)
    slices = [OwnedSlice(f"layer.{row}", (256, 8192), (0, 0), tensor[256 * row : 256 * (row + 1)]) for row in range(16)]
    publisher = build_publisher(shm_dir, slices)
    faults = []
    for _ in range(3):
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        publisher.publish(0, slices)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        print(f"published in {1e3 * (time.perf_counter() - started):.1f} ms with {faults[-1]} page faults")
    assert max(faults[1:]) < 1000


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_shared_memory_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    try:
        slices = [OwnedSlice("big", (2 * MIB,), (0,), torch.zeros(2 * MIB, dtype=torch.uint8))]
        with pytest.raises(
            SharedMemoryFull, match=rf"{tmp_path}/weights/0 is full.*needs {2 * MIB} bytes.*\d+ are free"
        ):
            build_publisher(tmp_path, slices).publish(0, slices)
        assert not list(tmp_path.glob("weights/0/*"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_memory_that_ends_while_it_is_taken_is_refused(shm_dir: Path) -> None:
    """As when another process took it after the check: here by a limit of the process."""
    program = f"""
import resource, pathlib
from tandem_trainer.shard_file import SharedMemoryFull, ShardFile
resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB}, resource.RLIM_INFINITY))
try:
    ShardFile.open(pathlib.Path({str(shm_dir)!r}) / "rank-0.bin", {4 * MIB})
except SharedMemoryFull as error:
    print(error)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert f"needs {4 * MIB} bytes" in done.stdout
    assert not list(shm_dir.glob("rank-0.bin"))
