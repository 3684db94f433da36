"""How well training uses its devices: model FLOP utilisation."""

import time
from collections.abc import Sequence

import torch

from tandem_trainer.architecture import Architecture

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 operations a second by NVIDIA's data sheets, by what the device's name contains; SXM forms."""
_PRODUCTS = {"cpu": (256, 100), "cuda": (8192, 10)}
"""Width of the matrices, and how many products are timed: the fastest one counts. On a CPU that others use too, only a
short one is ever left alone."""


def count_training_flops(architecture: Architecture, lengths: Sequence[int]) -> float:
    """Floating-point operations of one pass forward and backward over sequences of these lengths.

    6 for each token and each parameter that it is multiplied with, and for attention 12 x length x heads x head size a
    token and layer (PaLM, arXiv 2204.02311, appendix B), of which causal attention needs half. Look-ups of embeddings
    count nothing, and of a layer's experts only those that a token goes to.
    """
    tokens = float(sum(lengths))
    squares = float(sum(length**2 for length in lengths))
    width = architecture.heads * architecture.head_size
    return 6 * tokens * count_multiplied(architecture) + 6 * squares * width * architecture.layers


def count_multiplied(architecture: Architecture) -> int:
    """Parameters that each token is multiplied with."""
    hidden = architecture.hidden_size
    queries = architecture.heads * architecture.head_size
    keys = architecture.key_value_heads * architecture.head_size
    attention = hidden * (2 * queries + 2 * keys)
    experts = architecture.experts_per_token or 1
    feed_forward = 3 * hidden * architecture.intermediate_size * experts + hidden * architecture.experts
    return architecture.layers * (attention + feed_forward) + hidden * architecture.vocabulary_size


def observe_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second that the device could do: by its data sheet if it is known and trains in bf16, else as fast
    as a large matrix product is on it."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
        if known is not None:
            return known
    size, products = _PRODUCTS[device.type]
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(_time_product(left, right) for _ in range(products))


def _time_product(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait(left.device)
    started = time.perf_counter()
    torch.matmul(left, right)
    _wait(left.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
