"""Which bytes a receiver fetches from which rank: a pure function of the manifest and of what the receiver needs."""

import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tandem_core.weights.layout import ALIGNMENT, Layout, align, plan_layout
from tandem_core.weights.merge import Box, Manifest, ManifestTensor, Source, boxes_intersect

BUCKET_BYTES = 64 * 1024 * 1024
"""Longest range that is fetched in one piece: long enough to hide a round trip, short enough to balance."""

VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this before it cuts it (DEFAULT_VOCAB_PADDING_SIZE)."""

_VOCABULARY = re.compile(r"(^|\.)(embed_tokens|lm_head)\.weight$")
_KEY_VALUE = re.compile(r"\.(k_proj|v_proj)\.(weight|bias)$")
_COLUMN_PARALLEL = re.compile(r"\.(q_proj|gate_proj|up_proj)\.(weight|bias)$")
_ROW_PARALLEL = re.compile(r"\.(o_proj|down_proj)\.weight$")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Region:
    """A box of a tensor that a receiver needs."""

    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlannedBox:
    """A box the receiver uses, and where it takes it from."""

    tensor: str
    box: Box
    rank: int
    """Whose file holds it."""
    offset: int
    """First byte in that rank's file."""
    destination: int
    """First byte in the receiver's file; for local boxes: unused room."""


@dataclass(frozen=True, slots=True)
class FetchRange:
    """Bytes to move from a rank's file into the receiver's."""

    rank: int
    offset: int
    destination: int
    size_bytes: int


@dataclass(frozen=True)
class FetchPlan:
    """What a receiver does to have all boxes it needs."""

    layout: Layout
    local: tuple[PlannedBox, ...]
    """In the files of ranks of the receiver's own pod: nothing moves."""
    remote: tuple[PlannedBox, ...]
    """In other pods."""
    ranges: tuple[FetchRange, ...]
    """The bytes of the remote boxes, each byte once."""

    @property
    def local_bytes(self) -> int:
        """Bytes that are used where they are."""
        return sum(planned.box.size_bytes for planned in self.local)

    @property
    def remote_bytes(self) -> int:
        """Bytes that are fetched."""
        return sum(planned.box.size_bytes for planned in self.remote)


def whole_regions(manifest: Manifest) -> dict[str, Region]:
    """All of every tensor: what an engine needs whose tensor-parallel ranks are all in one pod."""
    return {name: _whole(tensor) for name, tensor in manifest.tensors.items()}


@dataclass(frozen=True)
class EngineShape:
    """How an engine cuts the model."""

    tensor_parallel: int
    key_value_heads: int | None = None
    """Left out: keys and values are not cut, because their number of heads does not show in the shapes."""
    experts: int | None = None
    """Given: vLLM's expert parallelism is on, and the tensor-parallel ranks share that many whole experts."""


def wanted_regions(manifest: Manifest, engine: EngineShape, rank: int) -> dict[str, Region]:
    """The box of each tensor that one tensor-parallel rank of an engine needs, by the Hugging Face names.

    Embedding and output layer are cut along the padded vocabulary, q/gate/up along dimension 0, o/down along
    dimension 1, keys and values along dimension 0 if their heads can be divided: heads are not split. With expert
    parallelism a rank needs its experts whole and no others (contiguous blocks, vLLM's linear placement). All else,
    and what cannot be divided, is needed whole. Raises ValueError for a rank outside of the engine.
    """
    if rank not in range(engine.tensor_parallel):
        raise ValueError(f"rank {rank} is not one of the {engine.tensor_parallel} tensor-parallel ranks")
    if engine.tensor_parallel == 1:
        return whole_regions(manifest)
    regions = {name: _cut(tensor, engine, rank) for name, tensor in manifest.tensors.items()}
    return {name: region for name, region in regions.items() if region is not None}


def joined_regions(manifest: Manifest, engine: EngineShape, ranks: Collection[int]) -> dict[str, Region]:
    """What neighbouring tensor-parallel ranks in one pod need together."""
    if len(set(ranks)) == engine.tensor_parallel:
        return whole_regions(manifest)
    joined: dict[str, Region] = {}
    for rank in sorted(set(ranks)):
        for name, region in wanted_regions(manifest, engine, rank).items():
            joined[name] = _hull(joined[name], region) if name in joined else region
    return joined


def plan_fetches(
    manifest: Manifest,
    regions: Mapping[str, Region],
    pod: str,
    pods_of_ranks: Mapping[int, str],
    bucket_bytes: int = BUCKET_BYTES,
) -> FetchPlan:
    """Plan how the receiver in `pod` gets every box that intersects its regions.

    Boxes are taken whole, because checksums are of whole boxes. A box that a rank of the own pod holds is not moved.
    The others are spread over the ranks that hold them: each run of neighbouring boxes with the same holders goes to
    the holder with the fewest bytes so far; where these are equal, by turns, and receivers begin at different turns.
    Ranges that adjoin both at the source and here are merged, up to bucket_bytes.
    """
    layout = plan_layout(manifest)
    local_ranks = {rank for rank, where in pods_of_ranks.items() if where == pod}
    local: list[PlannedBox] = []
    missing: list[_Missing] = []
    for name, offset in layout.offsets.items():
        if name not in regions:
            continue
        for box, destination in _wanted_boxes(manifest.tensors[name], regions[name], offset):
            source = next((source for source in box.sources if source.rank in local_ranks), None)
            if source is not None:
                local.append(PlannedBox(name, box, source.rank, source.offset, destination))
            else:
                missing.append(_Missing(name, box, destination))
    remote = _assign_sources(missing, bucket_bytes, _turn(pod, pods_of_ranks))
    return FetchPlan(layout, tuple(local), tuple(remote), tuple(plan_ranges(remote, bucket_bytes)))


def plan_ranges(boxes: Sequence[PlannedBox], bucket_bytes: int = BUCKET_BYTES) -> Iterator[FetchRange]:
    """The byte ranges of the boxes, in order of rank and offset: merged where they adjoin, cut at bucket_bytes."""
    rank = offset = destination = size = -1
    for planned in sorted(boxes, key=lambda planned: (planned.rank, planned.offset)):
        gap = planned.offset - (offset + size)
        if (
            planned.rank == rank
            and 0 <= gap < ALIGNMENT  # both files align what they hold: so small a gap is padding
            and planned.destination - (destination + size) == gap
            and size + gap + planned.box.size_bytes <= bucket_bytes
        ):
            size += gap + planned.box.size_bytes
            continue
        yield from _cut_range(rank, offset, destination, size, bucket_bytes)
        rank, offset, destination = planned.rank, planned.offset, planned.destination
        size = planned.box.size_bytes
    yield from _cut_range(rank, offset, destination, size, bucket_bytes)


def _turn(pod: str, pods_of_ranks: Mapping[int, str]) -> int:
    """A number in which receivers differ: publishing pods count up, for others it is drawn from their name."""
    pods = list(dict.fromkeys(pods_of_ranks[rank] for rank in sorted(pods_of_ranks)))
    return pods.index(pod) if pod in pods else zlib.crc32(pod.encode())


@dataclass(frozen=True, slots=True)
class _Missing:
    """A box that no local rank holds."""

    tensor: str
    box: Box
    destination: int


def _assign_sources(missing: Sequence[_Missing], bucket_bytes: int, seed: int) -> list[PlannedBox]:
    """Choose a source for each box: by runs of neighbours with the same holders, the least loaded holder first."""
    loads: dict[int, int] = {}
    planned: list[PlannedBox] = []
    for number, run in enumerate(_runs(missing, bucket_bytes)):
        choice = _least_loaded(run[0].box.sources, loads, seed + number)
        rank = run[0].box.sources[choice].rank
        loads[rank] = loads.get(rank, 0) + sum(item.box.size_bytes for item in run)
        planned.extend(
            PlannedBox(item.tensor, item.box, rank, item.box.sources[choice].offset, item.destination) for item in run
        )
    return planned


def _least_loaded(sources: Sequence[Source], loads: Mapping[int, int], turn: int) -> int:
    """Index of the source whose rank has the fewest bytes to give; `turn` decides where they are equal."""
    return min(
        range(len(sources)), key=lambda index: (loads.get(sources[index].rank, 0), (index + turn) % len(sources))
    )


def _runs(missing: Sequence[_Missing], bucket_bytes: int) -> Iterator[list[_Missing]]:
    """Boxes with the same holders, in the order of the layout, in runs of at most bucket_bytes (or one box)."""
    open_runs: dict[tuple[int, ...], tuple[list[_Missing], int]] = {}
    for item in missing:
        holders = tuple(source.rank for source in item.box.sources)
        run, size = open_runs.get(holders, ([], 0))
        if run and size + item.box.size_bytes > bucket_bytes:
            yield run
            run, size = [], 0
        run.append(item)
        open_runs[holders] = (run, size + item.box.size_bytes)
    for run, _ in open_runs.values():
        yield run


def _cut_range(rank: int, offset: int, destination: int, size: int, bucket_bytes: int) -> Iterator[FetchRange]:
    for done in range(0, size, bucket_bytes):
        yield FetchRange(rank, offset + done, destination + done, min(bucket_bytes, size - done))


def _wanted_boxes(tensor: ManifestTensor, region: Region, offset: int) -> Iterator[tuple[Box, int]]:
    """The boxes that intersect the region, each with its place in the receiver's file.

    The boxes of a tensor lie one after the other in the order of their start, each aligned: cuts along dimension 0
    (of sizes that are multiples of the alignment) thereby lie where the full tensor has them, other cuts stay
    contiguous, as they were published.
    """
    for box in tensor.boxes:
        if boxes_intersect(box.start, box.shape, region.start, region.shape):
            yield box, offset
        offset += align(box.size_bytes)


def _whole(tensor: ManifestTensor) -> Region:
    return Region((0,) * len(tensor.shape), tensor.shape)


def _hull(first: Region, last: Region) -> Region:
    start = tuple(map(min, first.start, last.start))
    ends = (
        max(a + size, b + other)
        for a, size, b, other in zip(first.start, first.shape, last.start, last.shape, strict=True)
    )
    return Region(start, tuple(end - begin for begin, end in zip(start, ends, strict=True)))


def _cut(tensor: ManifestTensor, engine: EngineShape, rank: int) -> Region | None:
    name, shape, parts = tensor.name, tensor.shape, engine.tensor_parallel
    expert = _EXPERT.search(name) if engine.experts is not None else None
    if expert is not None and engine.experts is not None:
        return _whole(tensor) if rank == _expert_rank(int(expert[1]), engine.experts, parts) else None
    if _VOCABULARY.search(name):
        padded = -(-shape[0] // VOCABULARY_PADDING) * VOCABULARY_PADDING
        return _rows(tensor, rank * padded // parts, padded // parts) if padded % parts == 0 else _whole(tensor)
    heads_divide = engine.key_value_heads is not None and engine.key_value_heads % parts == 0
    if _COLUMN_PARALLEL.search(name) or (heads_divide and _KEY_VALUE.search(name)):
        return _rows(tensor, rank * shape[0] // parts, shape[0] // parts) if shape[0] % parts == 0 else _whole(tensor)
    if _ROW_PARALLEL.search(name) and shape[1] % parts == 0:
        return Region((0, rank * shape[1] // parts), (shape[0], shape[1] // parts))
    return _whole(tensor)


def _rows(tensor: ManifestTensor, first: int, count: int) -> Region:
    """Rows of a tensor, as far as it has them."""
    begin, end = min(first, tensor.shape[0]), min(first + count, tensor.shape[0])
    return Region((begin, *(0 for _ in tensor.shape[1:])), (end - begin, *tensor.shape[1:]))


def _expert_rank(expert: int, experts: int, ranks: int) -> int:
    """The rank that has the expert: blocks in order, the first ranks have one more where they do not divide."""
    size, larger = divmod(experts, ranks)
    boundary = larger * (size + 1)
    return expert // (size + 1) if expert < boundary else larger + (expert - boundary) // size
