"""A trainer rank that is killed when it has written half of its slices.

Usage: python -m tests.integration.dying_rank FILE VERSION; the file holds a pickled Publication and slices.
"""

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tandem_trainer.naming import OwnedSlice
from tandem_trainer.publish import Publisher
from tandem_trainer.shard_layout import Box, plan_layout


def until_death(slices: list[OwnedSlice]) -> Iterator[OwnedSlice]:
    yield from slices[: len(slices) // 2]
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    publication, slices = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - the test wrote it
    Publisher(publication, plan_layout(map(Box.of, slices))).publish(int(sys.argv[2]), until_death(slices))
