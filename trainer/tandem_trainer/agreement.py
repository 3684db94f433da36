"""Ranks that do the same thing, or raise the same error."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist


def all_ranks(value: bool) -> bool:
    """Whether it is true on every rank. Collective."""
    return all(gather(value))


def gather[T](value: T) -> list[T]:
    """Every rank's value, by rank. Collective."""
    if dist.get_world_size() == 1:
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_first_rank[T](action: Callable[[], T]) -> T:
    """The result of `action`, which runs on rank 0 alone; its OSError is raised on all. Collective."""
    if dist.get_world_size() == 1:
        return action()
    result: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            result = [action()]
        except OSError as error:
            result = [error]  # the others wait for an answer
    dist.broadcast_object_list(result, src=0)
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]
