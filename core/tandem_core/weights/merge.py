"""From what each rank attests to one manifest of the whole version; refuses what does not fit together."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_core.errors import TandemError
from tandem_core.weights.manifest import Commit, ManifestPart, TensorSlice


class ManifestError(TandemError):
    """The parts of a version do not fit together: it must not be served."""


@dataclass(frozen=True, slots=True)
class RankFile:
    """The file in which a rank has written its slices."""

    rank: int
    pod: str
    url: str
    """http://address:port of the pod's checkpoint engine."""
    file: str
    """Path below the pod's shared memory directory."""
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """A rank that holds a box."""

    rank: int
    offset: int
    """First byte in the rank's file."""


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor: contiguous, and the same bytes, in the file of each of its sources."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    size_bytes: int
    checksum: str
    """xxh3_64 of the bytes, hexadecimal."""
    sources: tuple[Source, ...]
    """Data-parallel replicas, by rank; at least one."""


@dataclass(frozen=True, slots=True)
class ManifestTensor:
    """A tensor and the boxes that cover it without overlap, ordered by their start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All tensors of one version."""

    version: int
    incarnation: str
    ranks: tuple[RankFile, ...]
    """By rank."""
    tensors: dict[str, ManifestTensor]

    @property
    def size_bytes(self) -> int:
        """Bytes of the model, each box counted once."""
        return sum(box.size_bytes for tensor in self.tensors.values() for box in tensor.boxes)


def merge_parts(parts: Sequence[ManifestPart]) -> Manifest:
    """Merge the parts of all ranks of one version.

    Raises ManifestError, which names the tensor and the rank, if ranks are missing, if parts are of different versions
    or starts of the trainer, if the slices of a tensor leave a gap, overlap in part or disagree about dtype or
    shape, if a slice lies outside its rank's file, or if ranks that hold the same slice attest different bytes.
    """
    ordered = _ordered_parts(parts)
    slices: defaultdict[str, list[tuple[int, TensorSlice]]] = defaultdict(list)
    for part in ordered:
        for piece in part.slices:
            if piece.offset + piece.size_bytes > part.file_bytes:
                raise ManifestError(
                    f"version {part.version}, tensor {piece.name}, rank {part.rank}: bytes {piece.offset} to "
                    f"{piece.offset + piece.size_bytes} lie outside of its file of {part.file_bytes} bytes"
                )
            slices[piece.name].append((part.rank, piece))
    version = ordered[0].version
    return Manifest(
        version=version,
        incarnation=ordered[0].incarnation,
        ranks=tuple(RankFile(part.rank, part.pod, part.url, part.file, part.file_bytes) for part in ordered),
        tensors={name: _merge_tensor(version, name, slices[name]) for name in sorted(slices)},
    )


def check_commit(manifest: Manifest, commit: Commit) -> None:
    """Raise ManifestError if the manifest is not of the very publication that was committed."""
    found = (manifest.version, manifest.incarnation, len(manifest.ranks), manifest.size_bytes)
    expected = (commit.version, commit.incarnation, commit.world_size, commit.size_bytes)
    if found != expected:
        raise ManifestError(
            f"the manifest parts are of (version, incarnation, ranks, bytes) = {found}, but {expected} was committed: "
            "the ranks have published again since; load the newest committed version"
        )


def _ordered_parts(parts: Sequence[ManifestPart]) -> list[ManifestPart]:
    """The parts by rank, each rank of one and the same publication once; raises ManifestError."""
    if not parts:
        raise ManifestError("no rank has published a manifest part: nothing can be loaded")
    ordered = sorted(parts, key=lambda part: part.rank)
    first = ordered[0]
    for part in ordered:
        for what, found, expected in (
            ("version", part.version, first.version),
            ("world_size", part.world_size, first.world_size),
            ("incarnation", part.incarnation, first.incarnation),
        ):
            if found != expected:
                raise ManifestError(
                    f"version {first.version}: rank {part.rank} published {what} {found}, but rank {first.rank} "
                    f"{expected}: parts of different publications are never mixed; wait until all ranks have published"
                )
    ranks = [part.rank for part in ordered]
    if ranks != list(range(first.world_size)):
        missing = sorted(set(range(first.world_size)) - set(ranks))
        others = sorted({rank for rank in ranks if ranks.count(rank) > 1 or rank not in range(first.world_size)})
        raise ManifestError(
            f"version {first.version}: expected one part of each of {first.world_size} ranks; "
            f"missing: {missing}; repeated or unknown: {others}"
        )
    return ordered


def _merge_tensor(version: int, name: str, slices: Sequence[tuple[int, TensorSlice]]) -> ManifestTensor:
    """One tensor from the slices (rank, slice) of all ranks; raises ManifestError."""
    first_rank, first = slices[0]
    boxes: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[int, TensorSlice]]] = {}
    for rank, piece in slices:
        if piece.dtype != first.dtype or piece.global_shape != first.global_shape:
            raise ManifestError(
                f"version {version}, tensor {name}: rank {rank} says {piece.dtype} {piece.global_shape}, "
                f"rank {first_rank} says {first.dtype} {first.global_shape}"
            )
        boxes.setdefault((piece.start, piece.shape), []).append((rank, piece))
    merged = tuple(_merge_box(version, name, boxes[place]) for place in sorted(boxes))
    _check_cover(version, name, first.global_shape, merged)
    return ManifestTensor(name, first.dtype, first.global_shape, merged)


def _merge_box(version: int, name: str, replicas: Sequence[tuple[int, TensorSlice]]) -> Box:
    """One box from the replicas (rank, slice) that hold it; raises ManifestError if they differ."""
    first_rank, first = replicas[0]
    for rank, piece in replicas[1:]:
        if piece.checksum != first.checksum:
            raise ManifestError(
                f"version {version}, tensor {name}, slice {piece.shape} at {piece.start}: rank {rank} attests checksum "
                f"{piece.checksum}, rank {first_rank} {first.checksum}: replicas must hold the same bytes; one of "
                "them has diverged; resume the job from its last checkpoint"
            )
    sources = tuple(Source(rank, piece.offset) for rank, piece in replicas)
    return Box(first.start, first.shape, first.size_bytes, first.checksum, sources)


def _check_cover(version: int, name: str, shape: tuple[int, ...], boxes: Sequence[Box]) -> None:
    """Raise ManifestError unless the boxes, ordered by start, cover the tensor and do not overlap."""
    for index, box in enumerate(boxes):
        for other in boxes[index + 1 :]:
            if not shape or other.start[0] >= box.start[0] + box.shape[0]:
                break
            if boxes_intersect(box.start, box.shape, other.start, other.shape):
                raise ManifestError(
                    f"version {version}, tensor {name}: slice {box.shape} at {box.start} of rank {box.sources[0].rank} "
                    f"and slice {other.shape} at {other.start} of rank {other.sources[0].rank} overlap in part"
                )
    covered = sum(math.prod(box.shape) for box in boxes)
    if covered != math.prod(shape):
        held = ", ".join(f"{box.shape} at {box.start} (rank {box.sources[0].rank})" for box in boxes[:16])
        raise ManifestError(
            f"version {version}, tensor {name} {shape}: {math.prod(shape) - covered} of {math.prod(shape)} elements "
            f"were published by no rank; published: {held}"
        )


def boxes_intersect(
    start: Sequence[int], shape: Sequence[int], other_start: Sequence[int], other_shape: Sequence[int]
) -> bool:
    """Whether two boxes of one tensor share an element."""
    return all(
        first < other + other_size and other < first + size
        for first, size, other, other_size in zip(start, shape, other_start, other_shape, strict=True)
    )
