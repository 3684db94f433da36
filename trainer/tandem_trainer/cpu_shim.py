"""Makes megatron-core 0.19 run on a machine without CUDA. Does nothing where CUDA exists.

Megatron asks torch.cuda for devices, streams and random states wherever it runs. Each replacement below was found by
taking it away: the comment says what then fails.
"""

import functools
from collections.abc import Callable
from typing import Any, Self

import torch

_FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "as_tensor")


class _NoStream:
    """Stands for CUDA streams and events: everything is done at once on a CPU."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Self]:
        return lambda *_, **__: self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def install() -> bool:
    """Replace what needs CUDA; returns whether it did. Calling it again changes nothing."""
    if torch.cuda.is_available() or getattr(torch, "_tandem_cpu_shim", False):
        return False
    torch._tandem_cpu_shim = True
    _replace_devices()
    _replace_streams()
    _replace_random_state()
    _replace_expert_transfer()
    return True


def _replace_devices() -> None:
    torch.cuda.current_device = lambda: torch.device("cpu")
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    type_name = torch.Tensor.type

    def cuda_type_name(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        # The optimisers group tensors by type() and know only torch.cuda.FloatTensor and its like.
        if arguments or options:
            return type_name(tensor, *arguments, **options)
        return type_name(tensor).replace("torch.", "torch.cuda.", 1)

    torch.Tensor.type = cuda_type_name
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # dist_checkpointing, offload


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def make(*arguments: Any, **options: Any) -> Any:
        options.pop("pin_memory", None)
        device = options.get("device")
        if device is not None and str(device).startswith("cuda"):
            options["device"] = "cpu"
        return factory(*arguments, **options)

    return make


def _replace_streams() -> None:
    torch.cuda.current_stream = torch.cuda.default_stream = lambda *_, **__: _NoStream()
    torch.cuda.Stream = torch.cuda.Event = _NoStream  # mixture of experts
    torch.cuda.stream = lambda _: _NoStream()
    torch.cuda.synchronize = lambda *_, **__: None  # pipeline parallelism


def _replace_random_state() -> None:
    import megatron.core.tensor_parallel.random as megatron_random

    torch.cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    megatron_random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _replace_expert_transfer() -> None:
    import megatron.core.transformer.moe.token_dispatcher as dispatcher

    def keep(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        # Megatron turns split sizes into numpy only when they come from a GPU; the all-to-all needs plain numbers.
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    dispatcher.maybe_move_tensor_to_cpu = keep
