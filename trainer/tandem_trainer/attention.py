"""Attention through PyTorch's fused kernels, where TransformerEngine is not there."""

import torch
import torch.nn.functional as F


class FusedAttention(torch.nn.Module):
    """Stands in for Megatron's DotProductAttention, which writes out all scores and takes twice as long on a CPU.

    Its mask is True where a position may be seen; without one, positions see those before them. No dropout.
    """

    def __init__(self, config: object, layer_number: int, *_: object, softmax_scale: float | None = None, **__: object):
        super().__init__()
        self._scale = softmax_scale

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        """[positions, rows, heads x head size] from queries, keys and values of [positions, rows, heads, head size];
        several query heads may share one of keys and values."""
        positions, rows = query.shape[:2]
        result = F.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            attn_mask=attention_mask,
            is_causal=attention_mask is None,
            scale=self._scale,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        return result.permute(2, 0, 1, 3).reshape(positions, rows, -1)
