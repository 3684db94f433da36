"""What is fetched, from where: for any cut of any tensors over any ranks."""

from collections import Counter, defaultdict
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


def publish(tensors: dict[str, np.ndarray], cuts: Cuts, world_size: int, ranks_per_pod: int) -> Publication:
    """Box b, replica c goes to rank (b + c * boxes) modulo the number of ranks."""
    files = {rank: bytearray() for rank in range(world_size)}
    slices: defaultdict[int, list[TensorSlice]] = defaultdict(list)
    for name, tensor in tensors.items():
        parts, replicas = cuts[name]
        boxes = list(np.ndindex(*parts))
        for number, place in enumerate(boxes * replicas):
            rank = number % world_size
            shape = tuple(size // cut for size, cut in zip(tensor.shape, parts, strict=True))
            start = tuple(index * size for index, size in zip(place, shape, strict=True))
            data = tensor[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))].tobytes()
            if any(piece.name == name and piece.start == start for piece in slices[rank]):
                continue
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


def carry_out(plan: FetchPlan, publication: Publication) -> bytearray:
    """The receiver's file after all fetches; every byte that was not written is 0x7f."""
    received = bytearray(b"\x7f" * plan.layout.size_bytes)
    for item in plan.ranges:
        data = publication.files[item.rank][item.offset : item.offset + item.size_bytes]
        assert len(data) == item.size_bytes
        received[item.destination : item.destination + item.size_bytes] = data
    return received


@settings(max_examples=150, deadline=None)
@given(publications(), st.sampled_from([8, 64, 100, 1 << 20]), st.integers(0, 6))
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


@settings(max_examples=150, deadline=None)
@given(publications(), st.sampled_from([8, 64, 100, 1 << 20]))
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


@settings(max_examples=100, deadline=None)
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
