"""Log-probabilities of the next tokens, computed inside the model's last pipeline stage."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

from tandem_trainer.packing import Microbatch


class DeviceMicrobatch:
    """A microbatch on this rank's device, in the form that the attention wants.

    TransformerEngine's attention takes all rows as one, with the sequences' borders; FusedAttention takes a mask.
    """

    def __init__(self, microbatch: Microbatch, device: torch.device, *, borders: bool) -> None:
        shape = (1, -1) if borders else microbatch.inputs.shape
        self.inputs = torch.from_numpy(microbatch.inputs).to(device).view(shape)
        self.labels = torch.from_numpy(microbatch.labels).to(device).view(shape)
        self.positions = torch.from_numpy(microbatch.positions).to(device).view(shape)
        self.sequences = torch.from_numpy(microbatch.sequences).to(device).flatten()
        self.loss_mask = torch.from_numpy(microbatch.loss_mask).to(device).flatten()
        self.behaviour_logprobs = torch.from_numpy(microbatch.behaviour_logprobs).to(device).flatten()
        self.attention_mask: torch.Tensor | None = None
        self.packed: PackedSeqParams | None = None
        if borders:
            self.packed = _borders(microbatch, device)
        else:
            self.attention_mask = _attention_mask(microbatch, device)


@dataclass(frozen=True)
class SamplingDistribution:
    """Which distribution log-probabilities are of."""

    vocabulary_size: int
    """Without padding."""
    temperature: float = 1.0


def next_token_logprobs(model: Any, microbatch: DeviceMicrobatch, distribution: SamplingDistribution) -> torch.Tensor:
    """[1, positions] in fp32 on the last pipeline stage; hidden states elsewhere."""
    return model(
        microbatch.inputs,
        microbatch.positions,
        microbatch.attention_mask,
        labels=microbatch.labels,
        packed_seq_params=microbatch.packed,
        output_processor=_label_logprobs,
        output_processor_context=distribution,
    )


def _label_logprobs(
    *,
    hidden_states: torch.Tensor,
    output_layer: Any,
    output_weight: torch.Tensor | None,
    labels: torch.Tensor,
    context: SamplingDistribution,
    **_: object,
) -> torch.Tensor:
    """Megatron's hook for the end of the model: logits [positions, rows, vocabulary / tensor ranks] to logprobs.

    Padding of the vocabulary must not take part in the softmax: its logits are not those of any token.
    """
    logits, _bias = output_layer(hidden_states, weight=output_weight, runtime_gather_output=False)
    if context.temperature != 1.0:
        logits = logits / context.temperature
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        own = logits[..., : context.vocabulary_size].transpose(0, 1).flatten(0, 1)
        return -F.cross_entropy(own.float(), labels.flatten(), reduction="none").unsqueeze(0)
    first = logits.shape[-1] * parallel_state.get_tensor_model_parallel_rank()
    if first + logits.shape[-1] > context.vocabulary_size:
        padding = torch.arange(first, first + logits.shape[-1], device=logits.device) >= context.vocabulary_size
        logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min / 2)
    losses = vocab_parallel_cross_entropy(logits.float(), labels.transpose(0, 1).contiguous())
    return -losses.transpose(0, 1).reshape(1, -1)


def _attention_mask(microbatch: Microbatch, device: torch.device) -> torch.Tensor | None:
    """[rows, 1, length, length], True where position q sees position k; None for a plain causal mask, which is enough
    for a sequence that has its row alone: what pads the row stands behind it."""
    if not microbatch.shared:
        return None
    segments = torch.from_numpy(microbatch.segments).to(device)
    same = segments[:, :, None] == segments[:, None, :]
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return (same & past).unsqueeze(1)


def _borders(microbatch: Microbatch, device: torch.device) -> PackedSeqParams:
    """Where each sequence, and each run of padding, begins and ends when the rows stand one after the other."""
    rows, length = microbatch.segments.shape
    changes = np.ones((rows, length), dtype=bool)
    changes[:, 1:] = microbatch.segments[:, 1:] != microbatch.segments[:, :-1]
    edges = np.append(np.flatnonzero(changes), rows * length).astype(np.int32)
    cumulative = torch.from_numpy(edges).to(device)
    longest = int(np.diff(edges).max())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cumulative,
        cu_seqlens_kv=cumulative,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
