"""Weights from two pods' shared memory, over HTTP, into one of them: only what is missing, and only right bytes."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, load_job
from tandem_core.tls import build_client_context
from tandem_core.weights.layout import LoadFile, align
from tandem_core.weights.manifest import Commit, ManifestPart, TensorSlice
from tandem_core.weights.merge import ManifestError
from tandem_operator.certificate import make_certificate
from tandem_sidecar.mapped_files import MappedFiles
from tandem_sidecar.mapped_tensors import BoxedTensor, map_tensors
from tandem_sidecar.receive import ReceivedVersion, WeightVerificationError, receive_version
from tandem_sidecar.transport import TransferError

from tests.integration.weight_pods import WeightPod, serving

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"
TOKEN = "secret"
SHAPE = (64, 96)


@pytest.fixture
def two_pods(tmp_path: Path) -> Iterator[list[WeightPod]]:
    pods = [WeightPod(f"pod-{index}", tmp_path / f"shm-{index}") for index in range(2)]
    with serving(pods[0], TOKEN), serving(pods[1], TOKEN):
        yield pods


Tensors = dict[str, np.ndarray]
Holding = tuple[str, tuple[slice, ...]]


def publish(
    pods: list[WeightPod], holdings: dict[int, list[Holding]], tensors: Tensors, version: int = 1
) -> list[ManifestPart]:
    """Write the holdings (tensor, part of it) of each rank; even ranks are in the first pod, odd ones in the second."""
    parts = []
    for rank, held in holdings.items():
        pod = pods[rank % 2]
        pod.file(rank, version).parent.mkdir(parents=True, exist_ok=True)
        data, slices = bytearray(), []
        for name, where in held:
            box = np.ascontiguousarray(tensors[name][where])
            data.extend(bytes(align(len(data)) - len(data)))
            slices.append(
                TensorSlice(
                    name=name,
                    dtype="F32",
                    global_shape=tensors[name].shape,
                    start=tuple(part.start or 0 for part in where),
                    shape=box.shape,
                    offset=len(data),
                    checksum=xxhash.xxh3_64_hexdigest(box.tobytes()),
                )
            )
            data.extend(box.tobytes())
        pod.file(rank, version).write_bytes(data)
        parts.append(
            ManifestPart(
                version=version,
                rank=rank,
                world_size=len(holdings),
                incarnation="x",
                pod=pod.name,
                url=pod.url,
                file=str(pod.file(rank, version).relative_to(pod.shm_dir)),
                file_bytes=len(data),
                slices=tuple(slices),
            )
        )
    return parts


WHOLE = (slice(0, 64), slice(0, 96))
TOP, BOTTOM = (slice(0, 32), slice(0, 96)), (slice(32, 64), slice(0, 96))
LEFT, RIGHT = (slice(0, 64), slice(0, 48)), (slice(0, 64), slice(48, 96))
BOX_BYTES = 64 * 96 * 4


def make_tensors(*names: str) -> Tensors:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(SHAPE, dtype=np.float32) for name in names}


def commit_of(parts: list[ManifestPart], tensors: Tensors) -> Commit:
    return Commit(
        version=parts[0].version,
        world_size=len(parts),
        incarnation="x",
        token=1,
        size_bytes=sum(tensor.nbytes for tensor in tensors.values()),
        committed_at=0.0,
    )


async def receive(pod: WeightPod, parts: list[ManifestPart], tensors: Tensors, token: str = TOKEN) -> ReceivedVersion:
    return await receive_version(parts, commit_of(parts, tensors), pod.name, pod.shm_dir, token, timeout_seconds=30.0)


def loaded(received: ReceivedVersion) -> dict[str, torch.Tensor]:
    load_file = LoadFile.model_validate_json(received.load_file.read_bytes())
    return dict(map_tensors(load_file, received.load_file.parent, MappedFiles()))


def assert_loaded(received: ReceivedVersion, tensors: Tensors) -> None:
    found = loaded(received)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        target = torch.empty(tensor.shape)
        target.copy_(found[name])
        np.testing.assert_array_equal(target.numpy(), tensor)


async def test_each_pod_fetches_exactly_what_it_does_not_hold(two_pods: list[WeightPod]) -> None:
    # Two tensor-parallel ranks in two pods: one tensor cut by rows, one by columns, one replicated.
    tensors = make_tensors("rows", "columns", "norm")
    holdings = {
        0: [("rows", TOP), ("columns", LEFT), ("norm", WHOLE)],
        1: [("rows", BOTTOM), ("columns", RIGHT), ("norm", WHOLE)],
    }
    parts = publish(two_pods, holdings, tensors)
    for pod, other in (two_pods, reversed(two_pods)):
        received = await receive(pod, parts, tensors)
        assert_loaded(received, tensors)
        assert (received.fetched_bytes, received.local_bytes) == (BOX_BYTES, 2 * BOX_BYTES)
        assert other.served_bytes == BOX_BYTES


async def test_a_pod_without_a_trainer_fetches_every_byte_once_from_all_who_hold_it(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors(*"abcdefgh")
    parts = publish(two_pods, {rank: [(name, WHOLE) for name in tensors] for rank in range(2)}, tensors)
    outside = WeightPod("inference-0", two_pods[0].shm_dir.parent / "inference")
    received = await receive_version(parts, commit_of(parts, tensors), outside.name, outside.shm_dir, TOKEN)
    assert_loaded(received, tensors)
    assert received.local_bytes == 0
    assert sum(pod.served_bytes for pod in two_pods) == received.fetched_bytes == 8 * BOX_BYTES


async def test_rows_fetched_from_several_ranks_are_read_without_a_copy(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("rows")
    parts = publish(two_pods, {0: [], 1: [("rows", TOP)], 2: [], 3: [("rows", BOTTOM)]}, tensors)
    received = await receive(two_pods[0], parts, tensors)
    assert_loaded(received, tensors)
    assert not isinstance(loaded(received)["rows"], BoxedTensor)


async def test_three_versions_take_turns_in_two_slots(two_pods: list[WeightPod]) -> None:
    results = []
    for version in (1, 2, 3):
        tensors = {name: tensor + version for name, tensor in make_tensors("a", "b").items()}
        parts = publish(two_pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors, version)
        results.append(await receive(two_pods[0], parts, tensors))
        assert_loaded(results[-1], tensors)
    assert results[0].load_file == results[2].load_file != results[1].load_file


def test_a_part_of_a_tensor_is_put_together_only_if_all_of_it_is_there() -> None:
    (tensor,) = make_tensors("lower").values()
    found = BoxedTensor("lower", (64, 96), torch.float32, [((32, 0), torch.from_numpy(tensor[32:]))])
    np.testing.assert_array_equal(torch.empty(32, 96).copy_(found.narrow(0, 32, 32)).numpy(), tensor[32:])
    with pytest.raises(IndexError, match="96 of the 3168 elements the model asks for are not there"):
        torch.empty(33, 96).copy_(found.narrow(0, 31, 33))


def corrupt(pod: WeightPod, rank: int, offset: int) -> None:
    with pod.file(rank).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


async def test_a_wrong_local_byte_is_refused_by_name(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("a", "b")
    parts = publish(two_pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors)
    corrupt(two_pods[0], 0, 1234)
    with pytest.raises(
        WeightVerificationError, match=r"version 1, tensor a,.*rank 0 in pod pod-0.*checksum .*expected"
    ):
        await receive(two_pods[0], parts, tensors)


async def test_a_wrong_local_byte_is_fetched_from_a_replica_in_another_pod(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("a", "b")
    parts = publish(two_pods, {rank: [("a", WHOLE), ("b", WHOLE)] for rank in range(2)}, tensors)
    corrupt(two_pods[0], 0, 99)
    received = await receive(two_pods[0], parts, tensors)
    assert_loaded(received, tensors)
    assert (received.local_bytes, received.refetched_bytes, two_pods[1].served_bytes) == (BOX_BYTES,) * 3


async def test_a_wrong_byte_in_the_only_remote_copy_is_refused_by_name(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("a", "b")
    parts = publish(two_pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors)
    corrupt(two_pods[1], 1, 99)
    with pytest.raises(WeightVerificationError, match=r"version 1, tensor b,.*rank 1 in pod pod-1"):
        await receive(two_pods[0], parts, tensors)


def _corrupt_first_replica(pod: WeightPod) -> None:
    corrupt(pod, 1, 0)


def _lose_first_replica(pod: WeightPod) -> None:
    pod.file(1).unlink()


def _shorten_first_replica(pod: WeightPod) -> None:
    pod.file(1).write_bytes(b"")


@pytest.mark.parametrize("damage", [_corrupt_first_replica, _lose_first_replica, _shorten_first_replica])
async def test_a_slice_that_one_replica_cannot_give_is_taken_from_the_next(
    two_pods: list[WeightPod], damage: Callable[[WeightPod], None]
) -> None:
    tensors = make_tensors("a", "b")
    holdings = {rank: [("a", WHOLE), ("b", WHOLE)] if rank % 2 else [] for rank in range(4)}
    parts = publish(two_pods, holdings, tensors)
    damage(two_pods[1])
    # Both replicas are in pod-1: whichever rank is asked first, the right bytes must come in the end.
    received = await receive(two_pods[0], parts, tensors)
    assert_loaded(received, tensors)
    assert received.refetched_bytes in (0, BOX_BYTES, 2 * BOX_BYTES)
    corrupt(two_pods[1], 3, 0)
    (two_pods[0].shm_dir / "weights/received-1.bin").unlink()
    with pytest.raises((WeightVerificationError, TransferError)):
        await receive(two_pods[0], parts, tensors)


async def test_a_pod_that_does_not_answer_is_named(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("a", "b")
    parts = publish(two_pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors)
    parts[1] = parts[1].model_copy(update={"url": "http://127.0.0.1:9"})
    with pytest.raises(TransferError, match=r"pod pod-1, rank 1.*ConnectionRefusedError"):
        await receive(two_pods[0], parts, tensors)


async def test_a_wrong_token_is_told(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("a", "b")
    parts = publish(two_pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors)
    with pytest.raises(TransferError, match="answered 401 instead of 206"):
        await receive(two_pods[0], parts, tensors, token="other")


async def test_weights_come_encrypted_and_only_from_who_shows_the_jobs_certificate(tmp_path: Path) -> None:
    job = load_job(EXAMPLE)
    own, other = (write_certificate(tmp_path / name, job) for name in ("own", "other"))
    pods = [WeightPod(f"pod-{index}", tmp_path / f"shm-{index}") for index in range(2)]
    with serving(pods[0], TOKEN), serving(pods[1], TOKEN, tls_dir=own):
        tensors = make_tensors("a", "b")
        parts = publish(pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors)
        commit = commit_of(parts, tensors)
        with pytest.raises(TransferError, match="CERTIFICATE_VERIFY_FAILED"):
            await receive_version(parts, commit, "pod-0", pods[0].shm_dir, TOKEN, trust=build_client_context(other))
        received = await receive_version(
            parts, commit, "pod-0", pods[0].shm_dir, TOKEN, trust=build_client_context(own)
        )
        assert_loaded(received, tensors)
        assert received.fetched_bytes == BOX_BYTES


def write_certificate(directory: Path, job: RLJob) -> Path:
    directory.mkdir()
    for name, text in make_certificate(job).items():
        (directory / name).write_text(text)
    return directory


async def test_a_pod_that_stalls_ends_the_reception_at_the_deadline(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("a", "b")
    parts = publish(two_pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors)
    async with silent_server() as url:
        parts[1] = parts[1].model_copy(update={"url": url})
        with pytest.raises(TransferError, match="not received and verified within"):
            await receive_version(
                parts, commit_of(parts, tensors), "pod-0", two_pods[0].shm_dir, TOKEN, timeout_seconds=0.5
            )


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Accepts connections and never answers."""
    ended = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        ended.set()
        server.close()


async def test_another_publication_than_the_committed_one_is_refused(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("a", "b")
    parts = publish(two_pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors)
    commit = commit_of(parts, tensors).model_copy(update={"incarnation": "y"})
    with pytest.raises(ManifestError, match="was committed"):
        await receive_version(parts, commit, "pod-0", two_pods[0].shm_dir, TOKEN)


async def test_a_missing_local_file_is_named(two_pods: list[WeightPod]) -> None:
    tensors = make_tensors("a", "b")
    parts = publish(two_pods, {0: [("a", WHOLE)], 1: [("b", WHOLE)]}, tensors)
    two_pods[0].file(0).unlink()
    with pytest.raises(TandemError, match=r"cannot read .*rank-0.bin, where rank 0 of this pod"):
        await receive(two_pods[0], parts, tensors)


@pytest.fixture
def full_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A memory-backed directory of 64 KiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


async def test_a_full_shared_memory_is_told_with_what_is_needed(two_pods: list[WeightPod], full_tmpfs: Path) -> None:
    tensors = make_tensors(*"abcd")
    parts = publish(two_pods, {0: [], 1: [(name, WHOLE) for name in tensors]}, tensors)
    with pytest.raises(
        TandemError, match=rf"small/weights: no room.*{4 * BOX_BYTES} bytes needed, \d+ free.*sharedMemory"
    ):
        await receive_version(parts, commit_of(parts, tensors), "inference-0", full_tmpfs, TOKEN)
