"""Parts of a version become one manifest, or are refused."""

from typing import Any

import pytest
from tandem_core.weights.manifest import Commit, ManifestPart, TensorSlice
from tandem_core.weights.merge import ManifestError, check_commit, merge_parts


def piece(name: str = "a", start: tuple[int, ...] = (0, 0), shape: tuple[int, ...] = (4, 4), **changes: Any) -> Any:
    fields = {"dtype": "F32", "global_shape": (4, 4), "offset": 0, "checksum": "00"}
    return TensorSlice(name=name, start=start, shape=shape, **(fields | changes))


def part(rank: int, *slices: TensorSlice, world_size: int = 2, **changes: Any) -> ManifestPart:
    fields = {"version": 3, "incarnation": "x", "pod": f"pod-{rank}", "url": "http://p:1", "file_bytes": 1 << 20}
    return ManifestPart(
        rank=rank, world_size=world_size, slices=slices, file=f"weights/1/rank-{rank}.bin", **(fields | changes)
    )


def test_cuts_become_boxes_and_replicas_become_sources() -> None:
    top, bottom = piece(shape=(2, 4)), piece(start=(2, 0), shape=(2, 4), offset=64)
    manifest = merge_parts([part(1, bottom, world_size=3), part(0, top, world_size=3), part(2, bottom, world_size=3)])

    boxes = manifest.tensors["a"].boxes
    assert [box.start for box in boxes] == [(0, 0), (2, 0)]
    assert [[source.rank for source in box.sources] for box in boxes] == [[0], [1, 2]]
    assert manifest.size_bytes == 64
    assert [rank.pod for rank in manifest.ranks] == ["pod-0", "pod-1", "pod-2"]


def test_a_scalar_is_one_box() -> None:
    scalar = TensorSlice(name="s", dtype="F32", global_shape=(), start=(), shape=(), offset=0, checksum="0")
    assert merge_parts([part(0, scalar), part(1, scalar)]).tensors["s"].boxes[0].size_bytes == 4


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no rank has published"),
        ([part(0, piece())], r"missing: \[1\]"),
        ([part(0, piece()), part(0, piece())], r"missing: \[1\]; repeated or unknown: \[0\]"),
        ([part(0, piece()), part(1, piece(), version=4)], "rank 1 published version 4, but rank 0 3"),
        ([part(0, piece()), part(1, piece(), incarnation="y")], "rank 1 published incarnation y"),
        ([part(0, piece()), part(1, piece(), world_size=3)], "rank 1 published world_size 3"),
        ([part(0, piece(shape=(2, 4))), part(1)], r"tensor a \(4, 4\): 8 of 16 elements.*rank 0"),
        (
            [part(0, piece(shape=(3, 4))), part(1, piece(start=(2, 0), shape=(2, 4)))],
            "tensor a: slice .* of rank 0 and slice .* of rank 1 overlap",
        ),
        (
            [part(0, piece(shape=(4, 3))), part(1, piece(start=(0, 2), shape=(4, 2)))],
            "tensor a: slice .* of rank 0 and slice .* of rank 1 overlap",
        ),
        ([part(0, piece()), part(1, piece(checksum="ff"))], "tensor a.*rank 1 attests checksum ff, rank 0 00"),
        ([part(0, piece()), part(1, piece(dtype="I32"))], "tensor a: rank 1 says I32"),
        (
            [part(0, piece()), part(1, piece(global_shape=(8, 4)))],
            r"tensor a: rank 1 says F32 \(8, 4\), rank 0 says F32 \(4, 4\)",
        ),
        ([part(0, piece()), part(1, piece(offset=1 << 20))], "tensor a, rank 1: bytes .* outside of its file"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(parts: list[ManifestPart], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        merge_parts(parts)


@pytest.mark.parametrize("changes", [{"version": 4}, {"incarnation": "y"}, {"world_size": 1}, {"size_bytes": 1}])
def test_a_manifest_other_than_the_committed_one_is_refused(changes: dict[str, Any]) -> None:
    fields = {"version": 3, "world_size": 2, "incarnation": "x", "token": 1, "size_bytes": 64, "committed_at": 0.0}
    manifest = merge_parts([part(0, piece()), part(1, piece())])
    check_commit(manifest, Commit(**fields))
    with pytest.raises(ManifestError, match="was committed"):
        check_commit(manifest, Commit(**(fields | changes)))
