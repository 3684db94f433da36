"""Small models and batches, and what transformers says about them: the reference of test_megatron.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tandem_core.batches import TrainingBatch

VOCABULARY = 37  # odd, so that a tensor-parallel rank's part is padded
ALGORITHMS: dict[str, dict[str, Any]] = {
    "qwen3-tied": {"loss": "omd", "tau": 0.5, "updatesPerIteration": 2},
    "qwen3": {"loss": "omd", "tau": 0.5},
    "llama": {"loss": "grpo"},
    "qwen2": {"loss": "rest"},
    "qwen3_moe": {"loss": "omd"},
}
TEMPERATURES = {"llama": 0.7, "qwen3_moe": 1.3}
"""Of the rollouts; 1 for the others."""


def make_batch(iteration: int) -> TrainingBatch:
    """24 random sequences of 3-20 tokens in groups of 4; the later half of each is learnt from."""
    generator = np.random.default_rng(iteration)
    lengths = generator.integers(3, 21, 24).astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    mask = place >= np.repeat(lengths // 2, lengths)
    return TrainingBatch(
        iteration=iteration,
        tokens=generator.integers(0, VOCABULARY, lengths.sum()).astype(np.int32),
        lengths=lengths,
        loss_mask=mask,
        behaviour_logprobs=np.zeros(lengths.sum(), np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
        advantages=generator.normal(size=24).astype(np.float32),
        rewards=np.zeros(24, np.float32),
        groups=np.repeat(np.arange(6), 4).astype(np.int32),
    )


def make_model(name: str) -> transformers.PreTrainedModel:
    """A small model with weights large enough for attention to matter."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "tie_word_embeddings": name == "qwen3-tied",
    }
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
    torch.manual_seed(len(name))
    match name:
        case "qwen3" | "qwen3-tied":
            config = transformers.Qwen3Config(head_dim=16, **sizes)
        case "llama":
            config = transformers.LlamaConfig(**sizes)
        case "qwen2":
            config = transformers.Qwen2Config(**sizes)
        case "qwen3_moe":
            config = transformers.Qwen3MoeConfig(head_dim=16, **experts, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases start as constants: they would hide a mistake
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@dataclass
class Reference:
    """What transformers says about a model and its first batch."""

    directory: Path
    batch: TrainingBatch
    loss: float
    gradient_norm: float


def logprobs_by_transformers(model: Any, batch: TrainingBatch, temperature: float) -> list[torch.Tensor]:
    """For each sequence, the log-probability of each token but the first when sampled at `temperature`."""
    ends = np.cumsum(batch.lengths)
    result = []
    for end, length in zip(ends, batch.lengths, strict=True):
        tokens = torch.from_numpy(batch.tokens[end - length : end].astype(np.int64))
        logits = model(tokens[None, :-1]).logits[0]
        result.append((logits / temperature).log_softmax(-1).gather(1, tokens[1:, None])[:, 0])
    return result


def make_reference(name: str, root: Path) -> Reference:
    """Model and batch on disk; the batch's behaviour log-probabilities are those of transformers."""
    directory = root / name
    model = make_model(name).eval()
    model.save_pretrained(directory)
    batch = make_batch(1)
    logprobs = logprobs_by_transformers(model, batch, TEMPERATURES.get(name, 1.0))
    flat = torch.cat([torch.cat([torch.zeros(1), values.detach()]) for values in logprobs]).numpy()
    batch = TrainingBatch(
        **{**batch.__dict__, "behaviour_logprobs": np.where(batch.loss_mask, flat, 0).astype(np.float32)}
    )
    ends = np.cumsum(batch.lengths)
    masks = [torch.from_numpy(batch.loss_mask[e - n + 1 : e]) for e, n in zip(ends, batch.lengths, strict=True)]
    sums = torch.stack([(values * mask).sum() for values, mask in zip(logprobs, masks, strict=True)])
    advantages = torch.from_numpy(batch.advantages)
    tokens = batch.loss_mask.sum()
    match ALGORITHMS[name]["loss"]:
        case "omd":
            loss = -(advantages * sums).mean()
        case "grpo":  # at ratio 1 its gradient is that of the log-probabilities, its value the advantages'
            loss = -(advantages * sums).sum() / tokens
        case "rest":
            loss = -(advantages.clamp(min=0) * sums).sum() / tokens
    loss.backward()
    norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None))
    value = loss
    if ALGORITHMS[name]["loss"] == "grpo":
        counts = torch.stack([mask.sum() for mask in masks])
        value = -(advantages * counts).sum() / tokens
    return Reference(directory, batch, value.item(), norm.item())
