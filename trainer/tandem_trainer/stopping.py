"""Ending together: a checkpoint is saved on the way out if all ranks stand at the same place."""

from collections.abc import Mapping

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Record
from tandem_core.coordination.store import Store

log = structlog.get_logger()

AGREEMENT_SECONDS = 3.0
"""How much later than this rank another one may be asked to stop. If only this pod ends, it is the cost of that."""


class StoppingAt(Record):
    """stopping/<rank>: where a rank was when it was asked to end."""

    incarnation: str
    place: str
    """Equal if and only if the ranks can go through a collective together."""


async def agree_to_stop(store: Store, keys: JobKeys, rank: int, world_size: int, own: StoppingAt) -> bool:
    """Whether all ranks have been asked to end, in this incarnation and at the same place."""
    prefix = f"{keys.prefix}stopping/"
    await store.put(f"{prefix}{rank:05d}", own)

    def all_at_the_same_place(values: Mapping[str, StoppingAt]) -> bool:
        return sum(value == own for value in values.values()) == world_size

    async with Mirror(store, prefix, StoppingAt) as others:
        try:
            return await others.wait_for(all_at_the_same_place, AGREEMENT_SECONDS)
        except TimeoutError:
            log.info("other ranks go on or stand elsewhere: no checkpoint on the way out", rank=rank)
            return False
