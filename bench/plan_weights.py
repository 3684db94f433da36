"""Plan the weights of a DeepSeek-V3-like model of 1T parameters on 2,048 GPUs: how long it takes and how even it is.

    python bench/plan_weights.py [--receivers 8]

Prints times, bytes per receiver, and how the fetched bytes spread over the ranks that hold a replica.
"""

import argparse
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

from tandem_core.weights.layout import align
from tandem_core.weights.manifest import DTYPE_BYTES, Commit, ManifestPart, TensorSlice
from tandem_core.weights.merge import check_commit, merge_parts
from tandem_core.weights.plan import EngineShape, FetchPlan, joined_regions, plan_fetches

LAYERS, DENSE_LAYERS, HIDDEN, EXPERTS, EXPERT_WIDTH, DENSE_WIDTH, VOCABULARY = 61, 1, 7168, 384, 2048, 18432, 163840
HEADS, Q_RANK, KV_RANK, HEAD, ROPE = 64, 1536, 512, 128, 64
GPUS, GPUS_PER_POD = 2048, 8
TENSOR, PIPELINE, EXPERT = 8, 16, 64
STAGE = GPUS // PIPELINE  # ranks of a pipeline stage


def layer_tensors(layer: int) -> Iterator[tuple[str, tuple[int, ...], int | None]]:
    """Name, shape, and the dimension along which tensor parallelism cuts it; experts: cut by whole experts."""
    prefix = f"model.layers.{layer}"
    attention = f"{prefix}.self_attn"
    yield f"{attention}.q_a_proj.weight", (Q_RANK, HIDDEN), None
    yield f"{attention}.q_b_proj.weight", (HEADS * (HEAD + ROPE), Q_RANK), 0
    yield f"{attention}.kv_a_proj_with_mqa.weight", (KV_RANK + ROPE, HIDDEN), None
    yield f"{attention}.kv_b_proj.weight", (HEADS * 2 * HEAD, KV_RANK), 0
    yield f"{attention}.o_proj.weight", (HIDDEN, HEADS * HEAD), 1
    for name, width in (("input_layernorm", HIDDEN), ("post_attention_layernorm", HIDDEN)):
        yield f"{prefix}.{name}.weight", (width,), None
    dense = "mlp" if layer < DENSE_LAYERS else "mlp.shared_experts"
    width = DENSE_WIDTH if layer < DENSE_LAYERS else EXPERT_WIDTH
    yield f"{prefix}.{dense}.gate_proj.weight", (width, HIDDEN), 0
    yield f"{prefix}.{dense}.up_proj.weight", (width, HIDDEN), 0
    yield f"{prefix}.{dense}.down_proj.weight", (HIDDEN, width), 1
    if layer >= DENSE_LAYERS:
        yield f"{prefix}.mlp.gate.weight", (EXPERTS, HIDDEN), None


def rank_tensors(rank: int) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Name, global shape, start and shape of what a trainer rank holds: PP outermost, then DP, TP innermost."""
    stage, inside = divmod(rank, STAGE)
    tensor_rank, expert_rank = inside % TENSOR, inside % EXPERT
    per_stage = math.ceil(LAYERS / PIPELINE)
    cut: list[tuple[str, tuple[int, ...], int | None]] = []
    if stage == 0:
        cut.append(("model.embed_tokens.weight", (VOCABULARY, HIDDEN), 0))
    for layer in range(stage * per_stage, min((stage + 1) * per_stage, LAYERS)):
        cut += layer_tensors(layer)
        if layer >= DENSE_LAYERS:
            share = EXPERTS // EXPERT
            for expert in range(expert_rank * share, (expert_rank + 1) * share):
                for name in ("gate_proj", "up_proj", "down_proj"):
                    whole = (HIDDEN, EXPERT_WIDTH) if name == "down_proj" else (EXPERT_WIDTH, HIDDEN)
                    yield f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight", whole, (0, 0), whole
    if stage == PIPELINE - 1:
        cut += [("model.norm.weight", (HIDDEN,), None), ("lm_head.weight", (VOCABULARY, HIDDEN), 0)]
    for name, shape, dimension in cut:
        start, part = [0] * len(shape), list(shape)
        if dimension is not None:
            part[dimension] //= TENSOR
            start[dimension] = tensor_rank * part[dimension]
        yield name, shape, tuple(start), tuple(part)


def build_part(rank: int) -> ManifestPart:
    """What the rank would publish."""
    offset, slices = 0, []
    for name, shape, start, part in rank_tensors(rank):
        # model_construct: the cost of parsing is not what is measured here
        slices.append(
            TensorSlice.model_construct(
                name=name,
                dtype="BF16",
                global_shape=shape,
                start=start,
                shape=part,
                offset=offset,
                checksum=f"{name}{start}",
            )
        )
        offset += align(math.prod(part) * DTYPE_BYTES["BF16"])
    pod = f"hybrid-{rank // GPUS_PER_POD}"
    return ManifestPart.model_construct(
        version=1, rank=rank, world_size=GPUS, incarnation="x", pod=pod, url=f"http://{pod}:8001",
        file=f"weights/1/rank-{rank}.bin", file_bytes=offset, slices=tuple(slices),
    )  # fmt: skip


def spread(plans: list[FetchPlan]) -> float:
    """The largest ratio of what a rank gives to its fair share: each box divided evenly over its holders."""
    given: Counter[int] = Counter()
    fair: defaultdict[int, float] = defaultdict(float)
    for plan in plans:
        for item in plan.remote:
            given[item.rank] += item.box.size_bytes
            for source in item.box.sources:
                fair[source.rank] += item.box.size_bytes / len(item.box.sources)
    return max(given[rank] / share for rank, share in fair.items())


def main() -> None:
    """Build, merge, plan, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--receivers", type=int, default=8, help="pods that plan, one after the other")
    arguments.add_argument("--engine-pods", type=int, default=4, help="pods that one engine (tensor parallel) spans")
    options = arguments.parse_args()
    parts = [build_part(rank) for rank in range(GPUS)]
    slices = sum(len(part.slices) for part in parts)
    started = time.perf_counter()
    manifest = merge_parts(parts)
    check_commit(
        manifest,
        Commit(version=1, world_size=GPUS, incarnation="x", token=1, size_bytes=manifest.size_bytes, committed_at=0.0),
    )
    merged = time.perf_counter()
    parameters = sum(math.prod(tensor.shape) for tensor in manifest.tensors.values())
    print(f"{parameters / 1e12:.2f}T parameters, {GPUS} ranks, {len(manifest.tensors)} tensors, {slices} slices")
    print(f"merge: {merged - started:.2f} s")
    pods = {file.rank: file.pod for file in manifest.ranks}
    engine = EngineShape(options.engine_pods * GPUS_PER_POD, HEADS, EXPERTS)
    plans = []
    started = time.perf_counter()
    for receiver in range(options.receivers):
        place = receiver % options.engine_pods
        ranks = range(place * GPUS_PER_POD, (place + 1) * GPUS_PER_POD)
        regions = joined_regions(manifest, engine, ranks)
        plans.append(plan_fetches(manifest, regions, f"hybrid-{receiver}", pods))
    seconds = (time.perf_counter() - started) / options.receivers
    fetched = [plan.remote_bytes for plan in plans]
    ranges = sum(len(plan.ranges) for plan in plans) // len(plans)
    print(f"plan: {seconds:.2f} s for each receiver, {ranges} ranges each")
    print(
        f"engine of {options.engine_pods} pods (tensor and expert parallel {engine.tensor_parallel}): "
        f"{min(fetched) / 1e9:.0f} to {max(fetched) / 1e9:.0f} GB fetched by a pod, "
        f"{plans[0].local_bytes / 1e9:.1f} GB local, "
        f"model {manifest.size_bytes / 1e9:.0f} GB"
    )
    print(f"busiest source over its fair share: {spread(plans):.2f}")


if __name__ == "__main__":
    main()
