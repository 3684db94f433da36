"""What the ranks agree on before they publish: one name for this start of the trainer, and who writes what."""

import uuid
from pathlib import Path

from torch import distributed

from tandem_trainer.publish import Publication, Publisher, choose_threads
from tandem_trainer.shard_layout import Box, choose_boxes, plan_layout
from tandem_trainer.trainer import Trainer


def agree_on_publisher(trainer: Trainer, pod: str, url: str, shm_dir: Path, ranks_per_pod: int) -> Publisher:
    """This rank's publisher into `shm_dir` of `pod`, whose checkpoint engine answers at `url`. Collective."""
    boxes = [Box.of(owned) for owned in trainer.owned_slices()]
    incarnation, identities = [uuid.uuid4().hex], [frozenset[int]()] * trainer.world_size
    distributed.broadcast_object_list(incarnation, src=0)
    distributed.all_gather_object(identities, frozenset(box.identity for box in boxes))
    return Publisher(
        Publication(trainer.rank, trainer.world_size, incarnation[0], pod, url, shm_dir),
        plan_layout(choose_boxes(boxes, trainer.rank, ranks_per_pod, identities)),
        choose_threads(ranks_per_pod),
    )
