"""Plan the weights of a DeepSeek-V3-like model of 1T parameters on 2,048 GPUs: how long it takes and how even it is.

    python -m bench.plan_weights [--receivers 8] [--no-write]

CPU seconds of what each receiver does before the first byte moves, bytes per receiver, and how the fetched bytes spread
over the ranks that hold a replica. Nothing moves here.
"""

import argparse
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

from tandem_core.weights.layout import align
from tandem_core.weights.manifest import DTYPE_BYTES, ManifestPart, TensorSlice
from tandem_core.weights.merge import Manifest, merge_parts
from tandem_core.weights.plan import EngineShape, FetchPlan, joined_regions, plan_fetches

from bench.page import describe_machine, write_section

LAYERS, DENSE_LAYERS, HIDDEN, EXPERTS, EXPERT_WIDTH, DENSE_WIDTH, VOCABULARY = 61, 1, 7168, 384, 2048, 18432, 163840
HEADS, Q_RANK, KV_RANK, HEAD, ROPE = 64, 1536, 512, 128, 64
GPUS, GPUS_PER_POD = 2048, 8
TENSOR, PIPELINE, EXPERT = 8, 16, 64
STAGE = GPUS // PIPELINE  # ranks of a pipeline stage
ENGINE_PODS = (1, 4)


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
        # model_construct: nothing of this is measured
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
    """How much more the busiest rank gives than the busiest would if each box were divided evenly over its holders."""
    given: Counter[int] = Counter()
    fair: defaultdict[int, float] = defaultdict(float)
    for plan in plans:
        for item in plan.remote:
            given[item.rank] += item.box.size_bytes
            for source in item.box.sources:
                fair[source.rank] += item.box.size_bytes / len(item.box.sources)
    return max(given.values()) / max(fair.values())


def plan_receivers(manifest: Manifest, receivers: int, engine_pods: int) -> tuple[float, list[FetchPlan]]:
    """Seconds for each receiver, and the plans of the first `receivers` pods, of which `engine_pods` have an engine."""
    pods = {file.rank: file.pod for file in manifest.ranks}
    engine = EngineShape(engine_pods * GPUS_PER_POD, HEADS, EXPERTS)
    plans = []
    started = time.process_time()
    for receiver in range(receivers):
        place = receiver % engine_pods
        regions = joined_regions(manifest, engine, range(place * GPUS_PER_POD, (place + 1) * GPUS_PER_POD))
        plans.append(plan_fetches(manifest, regions, f"hybrid-{receiver}", pods))
    return (time.process_time() - started) / receivers, plans


def describe_plans(manifest: Manifest, receivers: int, engine_pods: int) -> str:
    """A row of the table."""
    seconds, plans = plan_receivers(manifest, receivers, engine_pods)
    fetched = [plan.remote_bytes / 1e9 for plan in plans]
    ranges = sum(len(plan.ranges) for plan in plans) // len(plans)
    return (
        f"| {engine_pods} | {seconds:.2f} s | {ranges} | {min(fetched):.0f} to {max(fetched):.0f} GB | "
        f"{plans[0].local_bytes / 1e9:.1f} GB | {spread(plans):.2f} |"
    )


def main() -> None:
    """Build, parse, merge, plan, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--receivers", type=int, default=8, help="pods that plan, one after the other")
    arguments.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    options = arguments.parse_args()
    texts = [build_part(rank).model_dump_json() for rank in range(GPUS)]
    started = time.process_time()
    parts = [ManifestPart.model_validate_json(text) for text in texts]
    parsed = time.process_time()
    manifest = merge_parts(parts)
    merged = time.process_time()
    parameters = sum(math.prod(tensor.shape) for tensor in manifest.tensors.values())
    rows = [describe_plans(manifest, options.receivers, engine_pods) for engine_pods in ENGINE_PODS]
    slices, megabytes = sum(len(part.slices) for part in parts), sum(map(len, texts)) / 1e6
    section = f"""
`python -m bench.plan_weights`. {parameters / 1e12:.2f}T parameters (bf16, {manifest.size_bytes / 1e9:.0f} GB) on
{GPUS} ranks: tensor parallel {TENSOR}, pipeline {PIPELINE}, expert {EXPERT}; {len(manifest.tensors)} tensors in
{slices} slices. CPU seconds. A receiver parses the ranks' parts ({megabytes:.0f} MB, {parsed - started:.1f} s),
merges them ({merged - parsed:.1f} s) and plans. An engine over several pods can be planned for, but is not run
yet: today each engine is in one pod.
{describe_machine()}

| pods of an engine | plan, each receiver | ranges | fetched by a pod | local | busiest source / even split |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""
    print(section)
    if not options.no_write:
        write_section("plan", section)


if __name__ == "__main__":
    main()
