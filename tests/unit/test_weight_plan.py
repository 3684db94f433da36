"""What is fetched, from where: for any cut of any tensors over any ranks."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from tandem_core.weights.layout import LoadedBox, align, join_rows
from tandem_core.weights.manifest import ManifestPart, TensorSlice
from tandem_core.weights.merge import Manifest, boxes_intersect, merge_parts
from tandem_core.weights.plan import EngineShape, FetchPlan, joined_regions, plan_fetches, wanted_regions, whole_regions


@dataclass
class Publication:
    """Tensors cut over ranks, with the bytes of each rank's file."""

    tensors: dict[str, np.ndarray]
    files: dict[int, bytes]
    manifest: Manifest

    @property
    def pods_of_ranks(self) -> dict[int, str]:
        return {rank.rank: rank.pod for rank in self.manifest.ranks}


Cuts = dict[str, tuple[tuple[int, ...], int]]
"""By tensor: parts along each dimension, and replicas of each part."""

Place = tuple[str, tuple[int, ...], tuple[int, ...]]
"""A box: tensor, first index, shape."""


def publish(tensors: dict[str, np.ndarray], cuts: Cuts, world_size: int, ranks_per_pod: int) -> Publication:
    """Box b, replica c goes to rank (b + c * boxes) modulo the number of ranks."""
    held: dict[int, dict[Place, None]] = {rank: {} for rank in range(world_size)}
    for name, tensor in tensors.items():
        parts, replicas = cuts[name]
        for number, place in enumerate(list(np.ndindex(*parts)) * replicas):
            held[number % world_size][cut(name, tensor, parts, place)] = None
    return write(tensors, held, ranks_per_pod)


def cut(name: str, tensor: np.ndarray, parts: tuple[int, ...], place: tuple[int, ...]) -> Place:
    """One of equal boxes."""
    shape = tuple(size // cut for size, cut in zip(tensor.shape, parts, strict=True))
    return name, tuple(index * size for index, size in zip(place, shape, strict=True)), shape


def write(tensors: dict[str, np.ndarray], held: Mapping[int, Iterable[Place]], ranks_per_pod: int) -> Publication:
    """Each rank writes the boxes it holds."""
    world_size = len(held)
    files = {rank: bytearray() for rank in held}
    slices: defaultdict[int, list[TensorSlice]] = defaultdict(list)
    for rank, places in held.items():
        for name, start, shape in places:
            tensor = tensors[name]
            data = tensor[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))].tobytes()
            files[rank].extend(b"\xee" * (align(len(files[rank])) - len(files[rank])))
            slices[rank].append(
                TensorSlice(
                    name=name,
                    dtype="I32",
                    global_shape=tensor.shape,
                    start=start,
                    shape=shape,
                    offset=len(files[rank]),
                    checksum=xxhash.xxh3_64_hexdigest(data),
                )
            )
            files[rank].extend(data)
    parts_of_manifest = [
        ManifestPart(
            version=1,
            rank=rank,
            world_size=world_size,
            incarnation="x",
            pod=f"pod-{rank // ranks_per_pod}",
            url="http://p:1",
            file=f"weights/1/rank-{rank}.bin",
            file_bytes=len(files[rank]),
            slices=tuple(slices[rank]),
        )
        for rank in range(world_size)
    ]
    return Publication(tensors, {rank: bytes(data) for rank, data in files.items()}, merge_parts(parts_of_manifest))


@st.composite
def publications(draw: st.DrawFn) -> Publication:
    world_size = draw(st.integers(1, 6))
    tensors, cuts = {}, {}
    count = 0
    for index in range(draw(st.integers(1, 8))):
        parts = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
        shape = tuple(cut * draw(st.integers(1, 5)) for cut in parts)
        size = int(np.prod(shape))
        tensors[f"t{index}"] = np.arange(count, count + size, dtype=np.int32).reshape(shape)
        cuts[f"t{index}"] = (parts, draw(st.integers(1, 3)))
        count += size
    return publish(tensors, cuts, world_size, draw(st.integers(1, world_size)))


@st.composite
def parallel_layouts(draw: st.DrawFn, *, experts: bool = True) -> Publication:
    """A trainer with tensor, pipeline, data and (unless it is to have no `experts`) expert parallelism, in pods.

    Ranks are numbered as Megatron does: tensor parallelism innermost, pipeline outermost. A pod publishes what several
    of its ranks hold only once.
    """
    tensor, stages, replicas = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    expert = draw(st.sampled_from(divisors(tensor * replicas)))
    share = draw(st.integers(1, 3)) if experts else 0
    world_size, width = tensor * replicas * stages, 4 * draw(st.integers(1, 16))
    ranks_per_pod = draw(st.sampled_from(divisors(world_size)))
    tensors: dict[str, np.ndarray] = {}
    held: dict[int, list[Place]] = {}
    for rank in range(world_size):
        stage, inside = divmod(rank, tensor * replicas)
        tensor_rank, first_expert = inside % tensor, inside % expert * share
        tensors |= {
            f"{stage}.up": np.arange(8 * width, dtype=np.int32).reshape(8, width),
            f"{stage}.down": np.arange(8 * width, dtype=np.int32).reshape(width, 8),
            f"{stage}.norm": np.arange(width, dtype=np.int32),
        }
        own = [f"{stage}.norm"] if tensor_rank == 0 else []
        for index in range(first_expert, first_expert + share):
            tensors[f"{stage}.experts.{index}"] = np.full((4, width), index, dtype=np.int32)
            own.append(f"{stage}.experts.{index}")
        places = [
            cut(f"{stage}.up", tensors[f"{stage}.up"], (tensor, 1), (tensor_rank, 0)),
            cut(f"{stage}.down", tensors[f"{stage}.down"], (1, tensor), (0, tensor_rank)),
            *((name, (0,) * tensors[name].ndim, tensors[name].shape) for name in own),
        ]
        lower = {place for other in range(rank - rank % ranks_per_pod, rank) for place in held[other]}
        held[rank] = [place for place in places if place not in lower]
    return write(tensors, held, ranks_per_pod)


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def carry_out(plan: FetchPlan, publication: Publication) -> bytearray:
    """The receiver's file after all fetches; every byte that was not written is 0x7f."""
    received = bytearray(b"\x7f" * plan.layout.size_bytes)
    for item in plan.ranges:
        data = publication.files[item.rank][item.offset : item.offset + item.size_bytes]
        assert len(data) == item.size_bytes
        received[item.destination : item.destination + item.size_bytes] = data
    return received


@settings(max_examples=150)
@given(publications() | parallel_layouts(), st.sampled_from([8, 64, 100, 1 << 20]), st.integers(0, 6))
def test_the_assembled_tensors_equal_the_originals(publication: Publication, bucket_bytes: int, pod: int) -> None:
    manifest = publication.manifest
    plan = plan_fetches(
        manifest, whole_regions(manifest), f"pod-{pod}", publication.pods_of_ranks, bucket_bytes=bucket_bytes
    )
    received = carry_out(plan, publication)
    assembled = {name: np.full_like(tensor, -1) for name, tensor in publication.tensors.items()}
    for file, item, offset in [
        *((received, item, item.destination) for item in plan.remote),
        *((publication.files[item.rank], item, item.offset) for item in plan.local),
    ]:
        where = tuple(slice(a, a + n) for a, n in zip(item.box.start, item.box.shape, strict=True))
        data = np.frombuffer(file, np.int32, count=item.box.size_bytes // 4, offset=offset)
        assembled[item.tensor][where] = data.reshape(item.box.shape)
    for name, tensor in publication.tensors.items():
        np.testing.assert_array_equal(assembled[name], tensor)


@settings(max_examples=150)
@given(publications() | parallel_layouts(), st.sampled_from([8, 64, 100, 1 << 20]))
def test_every_byte_is_fetched_once_and_nothing_a_local_rank_holds(publication: Publication, bucket_bytes: int) -> None:
    manifest, pods = publication.manifest, publication.pods_of_ranks
    plan = plan_fetches(manifest, whole_regions(manifest), "pod-0", pods, bucket_bytes=bucket_bytes)

    local = {rank for rank, pod in pods.items() if pod == "pod-0"}
    assert {item.rank for item in plan.local} <= local
    assert all(not local & {source.rank for source in item.box.sources} for item in plan.remote)
    assert plan.local_bytes + plan.remote_bytes == manifest.size_bytes
    assert all(0 < item.size_bytes <= bucket_bytes for item in plan.ranges)
    writes = Counter(
        byte for item in plan.ranges for byte in range(item.destination, item.destination + item.size_bytes)
    )
    wanted = {byte for item in plan.remote for byte in range(item.destination, item.destination + item.box.size_bytes)}
    assert wanted <= set(writes), "a wanted byte is not fetched"
    assert max(writes.values(), default=1) == 1, "a byte is fetched twice"
    assert len(writes) - len(wanted) <= 63 * len(plan.remote), "more than padding is fetched beside"


@settings(max_examples=100)
@given(publications(), st.integers(1, 4), st.data())
def test_only_boxes_that_intersect_the_region_are_taken(
    publication: Publication, parts: int, data: st.DataObject
) -> None:
    manifest = publication.manifest
    name = data.draw(st.sampled_from(sorted(manifest.tensors)))
    rank = data.draw(st.integers(0, parts - 1))
    regions = wanted_regions(manifest, EngineShape(parts), rank)
    plan = plan_fetches(manifest, {name: regions[name]}, "elsewhere", publication.pods_of_ranks)

    expected = {
        box.start
        for box in manifest.tensors[name].boxes
        if boxes_intersect(box.start, box.shape, regions[name].start, regions[name].shape)
    }
    assert {(item.tensor, item.box.start) for item in plan.remote} == {(name, start) for start in expected}


def experts(count: int, replicas: int) -> Publication:
    """`count` tensors of 64 bytes, each held whole by `replicas` ranks."""
    tensors = {f"e{index:04d}": np.full((16,), index, dtype=np.int32) for index in range(count)}
    return publish(tensors, {name: ((1,), replicas) for name in tensors}, replicas, 1)


def test_sources_are_balanced_over_the_ranks_that_hold_a_replica() -> None:
    publication = experts(count=400, replicas=4)
    manifest = publication.manifest
    plan = plan_fetches(manifest, whole_regions(manifest), "elsewhere", publication.pods_of_ranks, bucket_bytes=10 * 64)
    loads = Counter[int]()
    for item in plan.ranges:
        loads[item.rank] += item.size_bytes
    assert loads == {rank: 100 * 64 for rank in range(4)}


def loads_of(plan: FetchPlan) -> Counter[int]:
    """Bytes that each rank gives."""
    loads = Counter[int]()
    for item in plan.remote:
        loads[item.rank] += item.box.size_bytes
    return loads


@settings(max_examples=150)
@given(parallel_layouts(experts=False), st.sampled_from([64, 1024]), st.text(max_size=8))
def test_data_parallel_replicas_give_the_same_but_for_one_bucket(
    publication: Publication, bucket_bytes: int, pod: str
) -> None:
    manifest = publication.manifest
    plan = plan_fetches(manifest, whole_regions(manifest), pod, publication.pods_of_ranks, bucket_bytes=bucket_bytes)
    loads = loads_of(plan)
    for item in plan.remote:
        given_by_holders = [loads[source.rank] for source in item.box.sources]
        assert max(given_by_holders) - min(given_by_holders) <= max(bucket_bytes, largest_box(plan))


@settings(max_examples=150)
@given(parallel_layouts(), st.text(max_size=8))
def test_no_rank_gives_much_more_than_its_fair_share(publication: Publication, pod: str) -> None:
    """Experts have other replicas than the rest: a rank that gives much of the one is asked for less of the other."""
    manifest = publication.manifest
    plan = plan_fetches(manifest, whole_regions(manifest), pod, publication.pods_of_ranks, bucket_bytes=64)
    fair: defaultdict[int, float] = defaultdict(float)
    for item in plan.remote:
        for source in item.box.sources:
            fair[source.rank] += item.box.size_bytes / len(item.box.sources)
    for rank, size in loads_of(plan).items():
        assert size <= 2 * fair[rank] + largest_box(plan)


def largest_box(plan: FetchPlan) -> int:
    return max((item.box.size_bytes for item in plan.remote), default=0)


def test_receivers_start_at_different_replicas() -> None:
    publication = experts(count=1, replicas=4)
    manifest = publication.manifest
    chosen = Counter(
        plan_fetches(manifest, whole_regions(manifest), f"receiver-{index}", publication.pods_of_ranks).remote[0].rank
        for index in range(200)
    )
    assert set(chosen) == set(range(4))
    assert max(chosen.values()) <= 2 * 50


def test_neighbouring_tensors_of_one_rank_are_fetched_as_one_range() -> None:
    publication = experts(count=10, replicas=1)
    manifest = publication.manifest
    plan = plan_fetches(manifest, whole_regions(manifest), "elsewhere", publication.pods_of_ranks)
    assert [(item.offset, item.size_bytes) for item in plan.ranges] == [(0, 640)]


def region_of(name: str, shape: tuple[int, ...], tensor_parallel: int, rank: int, heads: int | None = None) -> object:
    tensors = {name: np.zeros(shape, dtype=np.int32)}
    manifest = publish(tensors, {name: ((1,) * len(shape), 1)}, 1, 1).manifest
    region = wanted_regions(manifest, EngineShape(tensor_parallel, heads), rank)[name]
    return region.start, region.shape


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (8, 6), ((4, 0), (4, 6))),
        ("model.layers.0.self_attn.q_proj.bias", (8,), ((4,), (4,))),
        ("model.layers.0.self_attn.o_proj.weight", (8, 6), ((0, 3), (8, 3))),
        ("model.layers.0.mlp.experts.7.gate_proj.weight", (8, 6), ((4, 0), (4, 6))),
        ("model.layers.0.mlp.experts.7.down_proj.weight", (8, 6), ((0, 3), (8, 3))),
        ("model.layers.0.mlp.gate.weight", (8, 6), ((0, 0), (8, 6))),
        ("model.layers.0.input_layernorm.weight", (8,), ((0,), (8,))),
        ("model.layers.0.mlp.down_proj.weight", (8, 7), ((0, 0), (8, 7))),
        ("lm_head.weight", (128, 2), ((64, 0), (64, 2))),
    ],
)
def test_the_second_of_two_tensor_parallel_ranks_wants(
    name: str, shape: tuple[int, ...], expected: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    assert region_of(name, shape, 2, 1) == expected


def test_the_vocabulary_is_cut_where_vllm_cuts_it_padded() -> None:
    # 100 rows are padded to 128: the first rank has 64 of them, the second the remaining 36.
    assert region_of("model.embed_tokens.weight", (100, 2), 2, 0) == ((0, 0), (64, 2))
    assert region_of("model.embed_tokens.weight", (100, 2), 2, 1) == ((64, 0), (36, 2))


@pytest.mark.parametrize(("heads", "shape"), [(None, (8, 6)), (1, (8, 6)), (4, (4, 6))])
def test_keys_and_values_are_cut_only_between_heads(heads: int | None, shape: tuple[int, ...]) -> None:
    assert region_of("model.layers.0.self_attn.k_proj.weight", (8, 6), 2, 0, heads) == ((0, 0), shape)


def test_ranks_of_one_pod_want_the_hull_and_all_ranks_everything() -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    manifest = publish({name: np.zeros((8, 2), dtype=np.int32)}, {name: ((1, 1), 1)}, 1, 1).manifest
    half = joined_regions(manifest, EngineShape(4), range(2, 4))[name]
    assert (half.start, half.shape) == ((4, 0), (4, 2))
    assert joined_regions(manifest, EngineShape(4), range(4)) == whole_regions(manifest)


def test_cuts_along_rows_that_lie_in_place_become_one_box() -> None:
    rows = [LoadedBox(file=0, offset=offset, start=(first, 0), shape=(2, 8)) for offset, first in ((64, 2), (0, 0))]
    assert join_rows("F32", rows) == (LoadedBox(file=0, offset=0, start=(0, 0), shape=(4, 8)),)
    columns = [LoadedBox(file=0, offset=offset, start=(0, first), shape=(4, 4)) for offset, first in ((0, 0), (64, 4))]
    assert join_rows("F32", columns) == tuple(columns)
    apart = [rows[1], rows[0].model_copy(update={"offset": 128})]
    assert join_rows("F32", apart) == tuple(apart)


@given(st.integers(1, 40), st.integers(2, 9))
def test_with_expert_parallelism_each_expert_goes_whole_to_one_rank_in_even_blocks(experts: int, ranks: int) -> None:
    names = [f"model.layers.0.mlp.experts.{expert}.down_proj.weight" for expert in range(experts)]
    tensors = {name: np.zeros((4, 4), dtype=np.int32) for name in names}
    manifest = publish(tensors, {name: ((1, 1), 1) for name in names}, 1, 1).manifest
    wanted = [list(wanted_regions(manifest, EngineShape(ranks, experts=experts), rank)) for rank in range(ranks)]
    owner = {name: rank for rank, held in enumerate(wanted) for name in held}
    assert [owner[name] for name in names] == sorted(owner.values())
    assert sum(map(len, wanted)) == experts
    assert max(map(len, wanted)) - min(map(len, wanted)) <= 1
