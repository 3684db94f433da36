"""Publishing weights: this rank's slices into its pod's shared memory, and a manifest that attests to them."""

import os
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import torch
import xxhash
from tandem_core.errors import TandemError
from tandem_core.weights.manifest import ManifestPart, TensorSlice

from tandem_trainer.naming import OwnedSlice
from tandem_trainer.shard_file import ShardFile
from tandem_trainer.shard_layout import DTYPE_NAMES, Box, ShardLayout

SLOTS = 2
"""Versions that exist side by side: engines may read one while the next is written."""
MAXIMUM_MANIFEST_BYTES = 1 << 20
_THREADS = 8
BATCH_BYTES = 8 * 1024 * 1024
"""Work of one thread at a time: long beside the cost of handing it over."""

CHUNK_BYTES = 1024 * 1024
"""Copied, then hashed: what fits into a core's cache."""

type _Batch = list[tuple[Box, torch.Tensor, torch.Tensor]]
"""Boxes, views of their values, and where in the file these go."""


class ManifestTooLarge(TandemError):
    """etcd would refuse the manifest part."""


@dataclass(frozen=True)
class Publication:
    """Who publishes: the constant fields of a rank's manifest parts."""

    rank: int
    world_size: int
    incarnation: str
    pod: str
    url: str
    """http://address:port of the pod's checkpoint engine."""
    shm_dir: Path


@dataclass
class Publisher:
    """Writes versions of this rank's slices. Files and their mappings are kept and written again."""

    publication: Publication
    layout: ShardLayout
    threads: int = _THREADS
    _files: dict[int, ShardFile] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        # Batches are written side by side, each by one thread.
        self._pool = ThreadPoolExecutor(self.threads, "publish", torch.set_num_threads, (1,))

    def publish(self, version: int, slices: Iterable[OwnedSlice]) -> ManifestPart:
        """Write the layout's slices as `version` and return the manifest part.

        Each checksum is computed from the file's memory, of a CPU's tensors while that is still in the cache. Raises
        SharedMemoryFull, and ValueError if `slices` are not those of the layout.
        """
        shard = self._open(version)
        batch: _Batch = []
        unfinished: set[Future[dict[Box, str]]] = set()
        checksums: dict[Box, str] = {}
        for owned in slices:
            box = Box.of(owned)
            if box not in self.layout.offsets:
                continue
            batch.append((box, owned.view, shard.region(self.layout.offsets[box], box.size_bytes)))
            if sum(region.nbytes for _, _, region in batch) >= BATCH_BYTES:
                if len(unfinished) == 2 * self.threads:  # some slices are not views but copies: few at a time
                    done, unfinished = wait(unfinished, return_when=FIRST_COMPLETED)
                    checksums |= _join(done)
                unfinished.add(self._pool.submit(_write, batch))
                batch = []
        checksums |= _join(unfinished) | _write(batch)
        if missing := self.layout.offsets.keys() - checksums.keys():
            raise ValueError(f"{len(missing)} slices of the layout were not given, such as {next(iter(missing)).name}")
        return self._build_part(version, checksums)

    def holds(self, part: ManifestPart) -> bool:
        """Whether this pod's shared memory still has what `part`, this rank's own, attests."""
        path = self.publication.shm_dir / part.file
        if part.pod != self.publication.pod or not path.is_file() or path.stat().st_size != part.file_bytes:
            return False
        shard = self._open(part.version) if part.file_bytes == self.layout.size_bytes else None
        return shard is not None and all(
            checksum(shard.region(piece.offset, piece.size_bytes)) == piece.checksum for piece in part.slices
        )

    def close(self) -> None:
        """End the threads. The files stay for the engines."""
        self._pool.shutdown()

    def _open(self, version: int) -> ShardFile:
        slot = version % SLOTS
        if slot not in self._files:
            path = self.publication.shm_dir / _file(version, self.publication.rank)
            self._files[slot] = ShardFile.open(path, self.layout.size_bytes)
        return self._files[slot]

    def _build_part(self, version: int, checksums: dict[Box, str]) -> ManifestPart:
        publication = self.publication
        part = ManifestPart(
            version=version,
            rank=publication.rank,
            world_size=publication.world_size,
            incarnation=publication.incarnation,
            pod=publication.pod,
            url=publication.url,
            file=_file(version, publication.rank),
            file_bytes=self.layout.size_bytes,
            slices=tuple(_build_slice(box, offset, checksums[box]) for box, offset in self.layout.offsets.items()),
        )
        size_bytes = len(part.model_dump_json())
        if size_bytes > MAXIMUM_MANIFEST_BYTES:
            raise ManifestTooLarge(
                f"the manifest of rank {part.rank} has {len(part.slices)} slices and {size_bytes} bytes, etcd takes "
                f"{MAXIMUM_MANIFEST_BYTES}: spread the model over more ranks (pipelineParallel, expertParallel)"
            )
        return part


def _write(batch: _Batch) -> dict[Box, str]:
    """Checksums of what was copied. A GPU copies one tensor after the other; all threads' copies keep it busy."""
    if not any(view.is_cuda for _, view, _ in batch):
        return {box: _copy_and_hash(view, region) for box, view, region in batch}
    for _, view, region in batch:
        region.view(view.dtype).view(view.shape).copy_(view, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    copied.synchronize()
    return {box: checksum(region) for box, _, region in batch}


def _copy_and_hash(view: torch.Tensor, region: torch.Tensor) -> str:
    target, content = region.view(view.dtype).view(view.shape), region.numpy()
    rows = view.shape[0] if view.dim() else 1
    row_bytes = region.nbytes // max(1, rows)
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    if step >= rows:
        target.copy_(view)
        return checksum(region)
    digest = xxhash.xxh3_64()
    for row in range(0, rows, step):
        target[row : row + step].copy_(view[row : row + step])
        digest.update(content[row * row_bytes : (row + step) * row_bytes])
    return digest.hexdigest()


def _join(futures: Iterable[Future[dict[Box, str]]]) -> dict[Box, str]:
    return {box: digest for future in futures for box, digest in future.result().items()}


def checksum(region: torch.Tensor) -> str:
    """xxh3_64 of a byte tensor, hexadecimal."""
    return xxhash.xxh3_64_hexdigest(region.numpy())


def choose_threads(ranks_per_pod: int) -> int:
    """Threads with which this rank publishes: its share of the pod's cores."""
    return max(1, min(_THREADS, len(os.sched_getaffinity(0)) // ranks_per_pod))


def _file(version: int, rank: int) -> str:
    return f"weights/{version % SLOTS}/rank-{rank}.bin"


def _build_slice(box: Box, offset: int, digest: str) -> TensorSlice:
    return TensorSlice(
        name=box.name,
        dtype=DTYPE_NAMES[box.dtype],
        global_shape=box.global_shape,
        start=box.start,
        shape=box.shape,
        offset=offset,
        checksum=digest,
    )
