"""What can happen to a job, and in which order a run of chaos lets it happen. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tandem_core.phases import Phase

PHASES = (Phase.ROLLOUT, Phase.DRAINING, Phase.TRAINING, Phase.PUBLISHING, Phase.LOADING)
"""The phases of an iteration, in order."""


class Part(StrEnum):
    """A process of a job."""

    ENGINE = "engine"
    CORE = "engine core"
    CHECKPOINT_ENGINE = "checkpoint engine"
    RANK = "rank"
    TORCHRUN = "torchrun"
    MASTER = "master"
    POD_ENGINE = "inference pod's engine"
    POD_CHECKPOINT_ENGINE = "inference pod's checkpoint engine"
    ETCD = "etcd"


class Blow(StrEnum):
    """What is done."""

    KILL = "kill -9"
    STOP = "stop"
    """SIGSTOP; nobody lets it go on."""
    AWAY = "30 s without"
    """SIGSTOP, and SIGCONT half a minute later."""
    FILL_MEMORY = "full /dev/shm, kill -9"
    """Full for half a minute, in which the part is killed."""
    FILL_DISK = "full disk, kill -9"
    """The same with the disk that checkpoints are written to."""
    CORRUPT = "damaged checkpoint, kill -9"
    """Bytes of the newest checkpoint change, then the part is killed."""


@dataclass(frozen=True)
class Fault:
    """Something that happens in a phase."""

    blow: Blow
    part: Part
    phase: Phase

    @property
    def name(self) -> str:
        """What happens, without the phase."""
        return f"{self.blow} {self.part}"

    def __str__(self) -> str:
        return f"{self.name} in {self.phase}"

    @property
    def confined(self) -> bool:
        """Whether the job needs small disks of its own."""
        return self.blow in (Blow.FILL_MEMORY, Blow.FILL_DISK)


def plan_faults(seed: int) -> list[Fault]:
    """All faults of a run in the order in which they happen; the same for the same seed.

    Parts take turns, so that none is struck again before it has run well for a while.
    """
    choice = random.Random(seed)
    processes = [part for part in Part if part is not Part.ETCD]
    rounds = [
        *_rounds(choice, [(Blow.KILL, part) for part in Part]),
        *_rounds(choice, [(Blow.STOP, part) for part in processes]),
        *_rounds(choice, [(Blow.AWAY, Part.ETCD)]),
        Fault(Blow.CORRUPT, Part.RANK, Phase.ROLLOUT),
    ]
    disks = [
        Fault(Blow.FILL_MEMORY, Part.RANK, Phase.TRAINING),
        Fault(Blow.FILL_DISK, Part.RANK, Phase.TRAINING),
    ]
    return [*rounds, *disks]


def _rounds(choice: random.Random, blows: Sequence[tuple[Blow, Part]]) -> list[Fault]:
    """Each blow in each phase: one of each blow in every round, the phases as mixed as they can be."""
    blows = choice.sample(blows, len(blows))
    orders = {blow: choice.sample(PHASES, len(PHASES)) for blow in blows}
    return [Fault(*blow, orders[blow][turn]) for turn in range(len(PHASES)) for blow in blows]
