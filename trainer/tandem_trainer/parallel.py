"""The process group, and Megatron's groups in it."""

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from tandem_core.errors import TandemError
from tandem_core.job.hybrid import HybridSpec
from tandem_core.job.operations import DeadlineSpec

from tandem_trainer.layout import Layout


def plan_patience(deadlines: DeadlineSpec) -> timedelta:
    """How long a rank waits for the others in a collective. Then all start anew in place, for which the phase must have
    time left; but a rank may wait for room in its pod as long as Publishing allows."""
    return timedelta(seconds=max(deadlines.publishing, deadlines.training / 4))


def join_process_group(hybrid: HybridSpec, patience: timedelta) -> torch.device:
    """Join the process group that torchrun's environment describes; returns this rank's device.

    Raises TandemError if the number of processes is not the one of the job, or a GPU is missing.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != hybrid.world_size:
        raise TandemError(
            f"the trainer was started with {world_size} processes, hybrid.replicas x ranksPerReplica makes "
            f"{hybrid.world_size}: start as many"
        )
    if hybrid.device == "gpu":
        device, backend = _gpu(), "cpu:gloo,cuda:nccl"
    elif torch.cuda.is_available():
        raise TandemError('hybrid.device is cpu, but CUDA is in use already: start with CUDA_VISIBLE_DEVICES=""')
    else:
        device, backend = torch.device("cpu"), "gloo"
    if hybrid.trainer.threads is not None:
        torch.set_num_threads(hybrid.trainer.threads)
    if not dist.is_initialized():
        rank = int(os.environ["RANK"])
        store = _open_store(rank, world_size, patience)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=patience)
    return device


def _open_store(rank: int, world_size: int, patience: timedelta) -> dist.Store:
    """The store at MASTER_ADDR and MASTER_PORT in which ranks find each other; rank 0 serves it.

    It asks nobody for a token, so it listens on that address alone: by itself torch takes all of the machine's.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank:
        return dist.TCPStore(address, port, world_size, timeout=patience)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)
    port = listener.getsockname()[1]
    return dist.TCPStore(
        address, port, world_size, is_master=True, timeout=patience, master_listen_fd=listener.detach()
    )


def split_model(hybrid: HybridSpec, seed: int, patience: timedelta) -> Layout:
    """Make Megatron's process groups; returns this rank's place. Experts are never cut by tensor parallelism."""
    trainer = hybrid.trainer
    parallel_state.initialize_model_parallel(
        trainer.tensor_parallel,
        trainer.pipeline_parallel,
        expert_model_parallel_size=trainer.expert_parallel,
        expert_tensor_parallel_size=1,
        distributed_timeout_minutes=patience / timedelta(minutes=1),
    )
    model_parallel_cuda_manual_seed(seed + 1)  # Megatron wants its generators even where dropout is 0
    return Layout(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_size=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pipeline_size=parallel_state.get_pipeline_model_parallel_world_size(),
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        expert_rank=parallel_state.get_expert_model_parallel_rank(),
        expert_size=parallel_state.get_expert_model_parallel_world_size(),
        expert_data_rank=parallel_state.get_expert_data_parallel_rank(),
    )


def leave_process_group() -> None:
    """Undo join_process_group and split_model."""
    if dist.is_initialized():
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _gpu() -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.device_count() <= local_rank:
        raise TandemError(
            f"rank {local_rank} of this pod finds {torch.cuda.device_count()} GPUs: hybrid.ranksPerReplica must not "
            "exceed the GPUs of a pod, and hybrid.device: cpu is for pods without"
        )
    torch.cuda.set_device(local_rank)
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        # Otherwise a small tensor that stays keeps gigabytes around it from going back to the GPU (Offload).
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    return torch.device("cuda", local_rank)
