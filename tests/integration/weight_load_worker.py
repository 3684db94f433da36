"""What test_vllm_weight_load.py runs: several models in one process, because the imports take longest.

Usage: weight_load_worker.py DIRECTORY TENSOR_PARALLEL MODEL...; the directory is in shared memory. Prints one line of
JSON: results by model.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "TORCH_COMPILE_DISABLE": "1",
}

import torch
from safetensors.torch import load_file
from tandem_core.weights.manifest import Commit, ManifestPart
from tandem_sidecar.receive import receive_version
from tandem_trainer.naming import OwnedSlice
from tandem_trainer.publish import Publication, Publisher
from tandem_trainer.shard_layout import Box, plan_layout
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

SIZES: dict[str, Any] = {
    "vocab_size": 500,  # vLLM pads it to 512
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
MODELS: dict[str, PretrainedConfig] = {
    "qwen3-tied": Qwen3Config(**SIZES, tie_word_embeddings=True),
    "qwen3-untied": Qwen3Config(**SIZES, tie_word_embeddings=False),
    "llama-untied": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen3-moe": Qwen3MoeConfig(
        **SIZES,
        tie_word_embeddings=False,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,  # vLLM pads it to 64
        decoder_sparse_step=1,
        norm_topk_prob=True,
    ),
}
ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
CUTS = (1, 2, 4)
"""Tensor-parallel trainer ranks that publish each of the versions 0, 1, 2."""
PROMPTS = ([5, 77, 9, 123, 40], [300, 2, 2, 17], [499, 0, 250])


def main() -> None:
    directory, tensor_parallel, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    print(json.dumps({name: check_model(MODELS[name], directory / name, tensor_parallel) for name in names}))


def check_model(config: PretrainedConfig, directory: Path, tensor_parallel: int) -> dict[str, Any]:
    """Update an engine three times; after each, compare it with transformers on the same weights."""
    config.architectures = [ARCHITECTURES[config.model_type]]
    config.save_pretrained(directory)
    engine = start_engine(directory, tensor_parallel)
    results: dict[str, Any] = {"versions": []}
    for version, ranks in enumerate(CUTS):
        model = make_model(config, seed=version)
        update(engine, version, publish(version, checkpoint_tensors(model, directory / "saved"), ranks, directory))
        results["versions"].append(compare(engine, model))
    if tensor_parallel == 1:
        results["incomplete"] = update_without_a_tensor(
            engine, checkpoint_tensors(model, directory / "saved"), directory
        )
    del engine
    gc.collect()
    cleanup_dist_env_and_memory()
    return results


def start_engine(directory: Path, tensor_parallel: int) -> LLM:
    return LLM(
        str(directory),
        skip_tokenizer_init=True,
        load_format="dummy",
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        tensor_parallel_size=tensor_parallel,
        kv_cache_memory_bytes=1 << 24,
        worker_extension_cls="tandem_sidecar.vllm_extension.TandemWorkerExtension",
        weight_transfer_config={"backend": "tandem"},
    )


def make_model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def checkpoint_tensors(model: PreTrainedModel, directory: Path) -> dict[str, torch.Tensor]:
    """By the names of the checkpoint, which for experts differ from the module's."""
    model.save_pretrained(directory)
    return load_file(directory / "model.safetensors")


def publish(version: int, tensors: dict[str, torch.Tensor], ranks: int, directory: Path) -> list[ManifestPart]:
    parts = []
    for rank in range(ranks):
        slices = list(cut_tensors(tensors, ranks, rank))
        publication = Publication(rank, ranks, "x", "pod-0", "http://127.0.0.1:9", directory)
        publisher = Publisher(publication, plan_layout(map(Box.of, slices)))
        parts.append(publisher.publish(version, slices))
        publisher.close()
    return parts


def cut_tensors(tensors: dict[str, torch.Tensor], ranks: int, rank: int) -> Iterator[OwnedSlice]:
    for name, tensor in tensors.items():
        start = [0] * tensor.dim()
        part = tensor
        if tensor.dim() == 2 and ".mlp.gate." not in name:
            dimension = 1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0
            size = tensor.shape[dimension] // ranks
            start[dimension] = rank * size
            part = tensor.narrow(dimension, rank * size, size)
        yield OwnedSlice(name, tuple(tensor.shape), tuple(start), part)


def update(engine: LLM, version: int, parts: list[ManifestPart]) -> None:
    directory = Path(engine.llm_engine.model_config.model)
    size_bytes = sum(piece.size_bytes for part in parts for piece in part.slices if part.rank == 0 or not piece.whole)
    commit = Commit(
        version=version, world_size=len(parts), incarnation="x", token=1, size_bytes=size_bytes, committed_at=0.0
    )
    received = asyncio.run(receive_version(parts, commit, "pod-0", directory, "token"))
    load(engine, received.load_file)


def load(engine: LLM, load_file: Path) -> None:
    """Load what the checkpoint engine has prepared, as it asks for it."""
    engine.collective_rpc("start_weight_update")
    engine.collective_rpc("update_weights", args=({"path": str(load_file)},))
    engine.collective_rpc("finish_weight_update")
    engine.reset_prefix_cache()


def generate(engine: LLM, prompts: Sequence[list[int]]) -> list[dict[str, Any]]:
    """For each prompt the greedy tokens and their log-probabilities."""
    sampling = SamplingParams(max_tokens=24, temperature=0, logprobs=0, ignore_eos=True, detokenize=False)
    answers = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
    results = []
    for output in (answer.outputs[0] for answer in answers):
        logprobs = [place[token].logprob for place, token in zip(output.logprobs, output.token_ids, strict=True)]
        results.append({"tokens": list(output.token_ids), "logprobs": logprobs})
    return results


def compare(engine: LLM, model: PreTrainedModel) -> dict[str, Any]:
    """Whether greedy tokens equal transformers', and the largest difference of their log-probabilities."""
    same, worst = True, 0.0
    for prompt, answer in zip(PROMPTS, generate(engine, PROMPTS), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer["tokens"]]])).logits[0]
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        same &= expected.argmax(-1).tolist() == answer["tokens"]
        for place, token in enumerate(answer["tokens"]):
            worst = max(worst, abs(expected[place, token].item() - answer["logprobs"][place]))
    return {"same_tokens": same, "worst_difference": worst}


def update_without_a_tensor(engine: LLM, tensors: dict[str, torch.Tensor], directory: Path) -> dict[str, str]:
    """The errors of updates that lack a whole parameter, and one part of a fused one."""
    errors = {}
    for missing in ("model.norm.weight", "model.layers.1.self_attn.k_proj.weight"):
        rest = {name: tensor for name, tensor in tensors.items() if name != missing}
        try:
            update(engine, 3, publish(3, rest, 1, directory))
        except RuntimeError as error:
            errors[missing] = str(error)
        except Exception as error:
            errors[missing] = f"{type(error).__name__}: {error}"
        worker = engine.llm_engine.model_executor.driver_worker.worker
        worker._weight_update_active = False
    return errors


if __name__ == "__main__":
    main()
