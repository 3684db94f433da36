"""Gradient buffers and the optimiser: Megatron's DistributedOptimizer with AdamW."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer.transformer_config import TransformerConfig
from tandem_core.job.algorithm import AlgorithmSpec

_RESHARDABLE = {
    "distrib_optim_sharding_type": "fully_reshardable",
    # Gathers on one rank's CPU instead of on every GPU.
    "distrib_optim_fully_reshardable_mem_efficient": True,
}


def wrap_model(config: TransformerConfig, model: torch.nn.Module) -> DistributedDataParallel:
    """The model with gradient buffers that are reduced over data-parallel ranks."""
    on_gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(
        config,
        DistributedDataParallelConfig(
            use_distributed_optimizer=True, grad_reduce_in_fp32=True, overlap_grad_reduce=on_gpu
        ),
        model,
    )


def build_optimizer(config: TransformerConfig, model: DistributedDataParallel, algorithm: AlgorithmSpec) -> Any:
    """AdamW over `model`, its state split over data-parallel ranks; hooks it into Megatron's schedule."""
    _restore_step_from_the_groups()
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=algorithm.learning_rate,
            min_lr=algorithm.learning_rate,
            weight_decay=algorithm.weight_decay,
            adam_beta1=algorithm.adam_beta1,
            adam_beta2=algorithm.adam_beta2,
            clip_grad=algorithm.gradient_clip,
            bf16=config.bf16,
            params_dtype=config.params_dtype,
            use_distributed_optimizer=True,
        ),
        [model],
    )
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = optimizer.scale_loss
    if model.ddp_config.overlap_grad_reduce:
        config.no_sync_func = model.no_sync
    return optimizer


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Use `learning_rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def allocate_state(optimizer: Any) -> None:
    """Make the moments (zero) now instead of at the first step, so that saving and loading find them."""
    for part in distributed_optimizers(optimizer):
        part.init_state_fn(part.optimizer, part.config)
        for state in part.optimizer.state.values():
            state.setdefault("step", torch.tensor(0.0))


def reset_state(optimizer: Any) -> None:
    """Forget moments and step count."""
    for part in distributed_optimizers(optimizer):
        for state in part.optimizer.state.values():
            for value in state.values():
                if torch.is_tensor(value):
                    value.zero_()
        for group in part.optimizer.param_groups:
            if "step" in group:  # TransformerEngine's AdamW counts here
                group["step"] = 0


def describe_state(optimizer: Any, model_state: dict[str, Any], *, loading: bool) -> dict[str, Any]:
    """The optimiser's state for dist_checkpointing: moments and fp32 weights by parameter, and the step count.

    `model_state` is the model's sharded state. Parameter groups are left out: what is in them comes from the job, and
    how parameters are grouped depends on the layout.
    """
    parts = list(distributed_optimizers(optimizer))
    states = [part.sharded_state_dict(model_state, is_loading=loading, metadata=_RESHARDABLE) for part in parts]
    return {
        "parameters": [state["param_state"] for state in states],
        "step": max((_step_count(part) for part in parts), default=0),
    }


def load_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Take over what dist_checkpointing loaded into `describe_state(..., loading=True)`."""
    for part, parameters in zip(distributed_optimizers(optimizer), state["parameters"], strict=True):
        own = part.state_dict()
        for group in own["optimizer"]["param_groups"]:
            group["step"] = state["step"]
        part.load_state_dict(
            own | {"param_state": parameters, "param_state_sharding_type": _RESHARDABLE["distrib_optim_sharding_type"]}
        )


def _step_count(part: DistributedOptimizer) -> int:
    groups = part.state_dict()["optimizer"]["param_groups"]
    return int(max((group.get("step") or 0 for group in groups), default=0))


def distributed_optimizers(optimizer: Any) -> Iterator[DistributedOptimizer]:
    """The optimisers that `optimizer` chains together: experts have one of their own."""
    yield from (part for part in getattr(optimizer, "chained_optimizers", [optimizer]) if part.optimizer is not None)


@functools.cache
def _restore_step_from_the_groups() -> None:
    """Lets DistributedOptimizer load a state for PyTorch's AdamW.

    megatron-core 0.19 takes the step count from the parameter groups, and then fails with KeyError 'step' because the
    saved tensors of each parameter have none. It also gives all parameters the very same tensor to count in, so that
    each would advance it for all. TransformerEngine's AdamW has no such state and is not touched.
    """
    load = DistributedOptimizer._set_main_param_and_optimizer_states

    def load_with_step(optimizer: DistributedOptimizer, parameter: torch.Tensor, tensors: dict[str, Any]) -> None:
        group, index = optimizer.model_param_group_index_map[parameter]
        state = optimizer.optimizer.state[optimizer.optimizer.param_groups[group]["params"][index]]
        if "step" in state:
            state["step"] = state["step"].clone()
            tensors = {"step": state["step"], **tensors}
        load(optimizer, parameter, tensors)

    DistributedOptimizer._set_main_param_and_optimizer_states = load_with_step
