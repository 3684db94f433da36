"""Brings a committed version into this pod's shared memory: merged, planned, fetched, verified."""

import asyncio
import mmap
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import xxhash
from tandem_core.errors import OutOfSpace, TandemError
from tandem_core.weights.layout import LoadedBox, LoadedTensor, LoadFile, join_rows
from tandem_core.weights.manifest import Commit, ManifestPart
from tandem_core.weights.merge import Manifest, RankFile, check_commit, merge_parts
from tandem_core.weights.plan import FetchPlan, PlannedBox, plan_fetches, plan_ranges, whole_regions

from tandem_sidecar.mapped_files import MappedFiles
from tandem_sidecar.transport import HttpTransport, TransferError, Transport, fetch_ranges, open_destination

log = structlog.get_logger()

VERIFY_BATCH_BYTES = 8 * 1024 * 1024
"""Work of one thread at a time when checksums are compared: long beside the cost of handing it over."""


class WeightVerificationError(TandemError):
    """Bytes are not what their rank attested: they are never given to the engine."""


@dataclass(frozen=True)
class ReceivedVersion:
    """A version whose bytes are in this pod's shared memory and verified."""

    version: int
    load_file: Path
    """For update_info of the weight-transfer backend "tandem"."""
    fetched_bytes: int
    """From other pods; without what was fetched again from a replica."""
    refetched_bytes: int
    """Of slices that were wrong, or did not come, and were taken from another replica."""
    local_bytes: int
    """Used where the trainer ranks of this pod have written them."""
    fetch_seconds: float
    verify_seconds: float
    """Of the fetched bytes; those of local ranks are verified while others are fetched."""


async def receive_version(
    parts: Sequence[ManifestPart],
    commit: Commit,
    pod: str,
    shm_dir: Path,
    token: str,
    *,
    trust: ssl.SSLContext | None = None,
    timeout_seconds: float = 600.0,
    transport: Transport | None = None,
    files: MappedFiles | None = None,
) -> ReceivedVersion:
    """Fetch what this pod does not hold of the committed version, and verify it all.

    All ranks of an engine are in one pod, which therefore needs the whole model. What is fetched goes to
    weights/received-<slot>.bin below shm_dir, the load file to load-<slot>.json; slot is the version modulo 2, so the
    version before stays whole.

    trust: for pods whose url has https.

    files: kept from version to version, it saves mapping this pod's own files anew.

    Raises ManifestError if the parts do not fit together or are not what was committed; WeightVerificationError for
    bytes that differ from their checksum at every replica; TransferError for bytes that no replica gave; TandemError
    for a full shared memory; all within timeout_seconds.
    """
    manifest = await asyncio.to_thread(merge_parts, parts)
    check_commit(manifest, commit)
    pods = {file.rank: file.pod for file in manifest.ranks}
    plan = await asyncio.to_thread(plan_fetches, manifest, whole_regions(manifest), pod, pods)
    receiver = _Receiver(manifest, plan, shm_dir, transport or HttpTransport(token, trust), files or MappedFiles())
    try:
        async with asyncio.timeout(timeout_seconds):
            plan = await receiver.carry_out()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    except TimeoutError as error:
        raise TransferError(
            f"version {manifest.version}: {plan.remote_bytes} bytes that other pods hold "
            f"were not received and verified within {timeout_seconds:.0f} s"
        ) from error
    load_file = shm_dir / f"load-{manifest.version % 2}.json"
    await asyncio.to_thread(_write_atomically, load_file, build_load_file(manifest, plan).model_dump_json())
    return ReceivedVersion(
        version=manifest.version,
        load_file=load_file,
        fetched_bytes=plan.remote_bytes,
        refetched_bytes=receiver.refetched_bytes,
        local_bytes=plan.local_bytes,
        fetch_seconds=receiver.fetch_seconds,
        verify_seconds=receiver.verify_seconds,
    )


def build_load_file(manifest: Manifest, plan: FetchPlan) -> LoadFile:
    """Where the engine finds each tensor once the plan has been carried out."""
    files = [received_file(manifest.version)]
    numbers: dict[int, int] = {}
    boxes: dict[str, list[LoadedBox]] = {}
    for item in plan.remote:
        place = LoadedBox(file=0, offset=item.destination, start=item.box.start, shape=item.box.shape)
        boxes.setdefault(item.tensor, []).append(place)
    for item in plan.local:
        if item.rank not in numbers:
            numbers[item.rank] = len(files)
            files.append(manifest.ranks[item.rank].file)
        place = LoadedBox(file=numbers[item.rank], offset=item.offset, start=item.box.start, shape=item.box.shape)
        boxes.setdefault(item.tensor, []).append(place)
    tensors = {
        name: LoadedTensor(
            dtype=manifest.tensors[name].dtype,
            shape=manifest.tensors[name].shape,
            boxes=join_rows(manifest.tensors[name].dtype, boxes[name]),
        )
        for name in plan.layout.offsets
        if name in boxes
    }
    return LoadFile(version=manifest.version, files=tuple(files), tensors=tensors)


def received_file(version: int) -> str:
    """Path below the shared memory directory of what was fetched from other pods."""
    return f"weights/received-{version % 2}.bin"


class _Receiver:
    """Carries a plan out."""

    def __init__(
        self, manifest: Manifest, plan: FetchPlan, shm_dir: Path, transport: Transport, files: MappedFiles
    ) -> None:
        self._manifest = manifest
        self._plan = plan
        self._shm_dir = shm_dir
        self._transport = transport
        self._files = files
        self.fetch_seconds = 0.0
        self.verify_seconds = 0.0
        self.refetched_bytes = 0
        self._tried: dict[int, set[int]] = {}
        """Ranks that did not give the slice at this destination as it was attested."""

    async def carry_out(self) -> FetchPlan:
        """Have all slices here, verified; returns the plan with the replicas that gave what was wrong in this pod."""
        async with asyncio.TaskGroup() as group:
            verifying = group.create_task(self._verify_local())
            group.create_task(self._fetch(self._plan.remote))
        replaced = verifying.result()
        await self._fetch(replaced)
        elsewhere = {item.destination for item in replaced}
        local = tuple(item for item in self._plan.local if item.destination not in elsewhere)
        return replace(self._plan, local=local, remote=(*self._plan.remote, *replaced))

    async def _verify_local(self) -> list[PlannedBox]:
        """Compare the checksums of the slices that ranks of this pod hold.

        Returns the wrong ones as they are to be fetched from replicas; raises WeightVerificationError if there is none.
        """
        ranks = sorted({item.rank for item in self._plan.local})
        self._files.drop_replaced()
        files = {rank: _map_file(self._shm_dir, self._manifest.ranks[rank], self._files) for rank in ranks}
        wrong = await _find_wrong([(item, files[item.rank], item.offset) for item in self._plan.local])
        return [self._next_replica(item, found, {}) for item, found in wrong]

    async def _fetch(self, boxes: Sequence[PlannedBox]) -> None:
        """Fetch and verify what other pods hold, slice by slice from the next replica if one gives wrong bytes."""
        if not boxes:
            return
        ranges = tuple(plan_ranges(boxes))
        path = self._shm_dir / received_file(self._manifest.version)
        # The mapping is left to the garbage collector: a thread of a cancelled fetch may still write to it.
        mapping = await asyncio.to_thread(open_destination, path, self._plan.layout.size_bytes, ranges)
        while boxes:
            started = time.monotonic()
            errors = await fetch_ranges(self._transport, self._manifest.ranks, ranges, memoryview(mapping))
            fetched = time.monotonic()
            wrong = await _find_wrong([(item, mapping, item.destination) for item in boxes])
            self.fetch_seconds += fetched - started
            self.verify_seconds += time.monotonic() - fetched
            boxes = [self._next_replica(item, found, errors) for item, found in wrong]
            ranges = tuple(plan_ranges(boxes))

    def _next_replica(self, item: PlannedBox, found: str, errors: Mapping[int, TransferError]) -> PlannedBox:
        """The same box from a rank that was not tried; raises what was wrong with the last one if there is none."""
        problem = errors.get(item.rank) or self._verification_error(item, found)
        tried = self._tried.setdefault(item.destination, set())
        tried.add(item.rank)
        source = next((source for source in item.box.sources if source.rank not in tried), None)
        if source is None:
            raise problem
        self.refetched_bytes += item.box.size_bytes
        log.warning("taking a slice from another replica", tensor=item.tensor, rank=source.rank, reason=str(problem))
        return replace(item, rank=source.rank, offset=source.offset)

    def _verification_error(self, item: PlannedBox, found: str) -> WeightVerificationError:
        source = self._manifest.ranks[item.rank]
        return WeightVerificationError(
            f"version {self._manifest.version}, tensor {item.tensor}, slice {item.box.shape} at {item.box.start}: the "
            f"bytes at {item.offset} of {source.file} of rank {item.rank} in pod {source.pod} have checksum {found}, "
            f"expected {item.box.checksum}, which the rank attested: its memory has changed since it published; "
            "publish the version again"
        )


def _map_file(shm_dir: Path, source: RankFile, files: MappedFiles) -> mmap.mmap:
    """A local rank's file, read-only; raises TandemError if it is not there or too short."""
    path = shm_dir / source.file
    try:
        size_bytes = path.stat().st_size
        if size_bytes < source.file_bytes:
            raise TandemError(
                f"{path} of rank {source.rank} has {size_bytes} bytes, its manifest part says {source.file_bytes}: "
                "the version has been overwritten or the rank has restarted; publish it again"
            )
        return files.open(path)
    except OSError as error:
        raise TandemError(
            f"cannot read {path}, where rank {source.rank} of this pod says it has written its weights: "
            f"{error.strerror}; trainer and checkpoint engine must share the pod's memory-backed directory"
        ) from error


async def _find_wrong(boxes: Sequence[tuple[PlannedBox, mmap.mmap, int]]) -> list[tuple[PlannedBox, str]]:
    """The boxes (box, file, first byte) whose bytes differ from their checksum, each with the checksum found."""
    threads = len(os.sched_getaffinity(0))
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="verify")
    try:
        found = await asyncio.gather(*(loop.run_in_executor(pool, _hash_boxes, batch) for batch in _batches(boxes)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [entry for batch in found for entry in batch]


def _hash_boxes(boxes: Sequence[tuple[PlannedBox, mmap.mmap, int]]) -> list[tuple[PlannedBox, str]]:
    wrong = []
    for item, file, offset in boxes:
        # xxhash lets other threads run while it reads.
        found = xxhash.xxh3_64_hexdigest(memoryview(file)[offset : offset + item.box.size_bytes])
        if found != item.box.checksum:
            wrong.append((item, found))
    return wrong


def _batches(
    boxes: Sequence[tuple[PlannedBox, mmap.mmap, int]],
) -> Iterator[list[tuple[PlannedBox, mmap.mmap, int]]]:
    batch: list[tuple[PlannedBox, mmap.mmap, int]] = []
    size = 0
    for entry in boxes:
        batch.append(entry)
        size += entry[0].box.size_bytes
        if size >= VERIFY_BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    try:
        temporary.write_text(text)
    except OSError as error:
        raise OutOfSpace(
            f"{path} cannot be written ({error.strerror}): make room, or raise hybrid.sharedMemory"
        ) from error
    temporary.replace(path)
