"""Members of a job as tasks, for bench.coordination: each acknowledges every phase as soon as it sees it, for ever.

python -m bench.coordination_members ETCD JOB_UID FIRST STOP
"""

import asyncio
import sys
import time
from collections.abc import Mapping

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, PhaseRecord, Role
from tandem_core.coordination.store import Store

MEMBERS_OF_A_CHANNEL = 50
WAIT_SECONDS = 300.0


async def main(endpoint: str, job_uid: str, numbers: range) -> None:
    """Ends only when it is killed."""
    async with asyncio.TaskGroup() as tasks:
        for first in numbers[::MEMBERS_OF_A_CHANNEL]:
            last = min(first + MEMBERS_OF_A_CHANNEL, numbers.stop)
            tasks.create_task(_share_a_channel(endpoint, JobKeys(job_uid), range(first, last)))


async def _share_a_channel(endpoint: str, keys: JobKeys, numbers: range) -> None:
    async with Store(endpoint) as store, asyncio.TaskGroup() as tasks:
        for number in numbers:
            tasks.create_task(_acknowledge_phases(store, keys, number))


async def _acknowledge_phases(store: Store, keys: JobKeys, rank: int) -> None:
    name = f"{Role.TRAINER}-{rank}"
    async with Mirror(store, keys.phase, PhaseRecord) as phases:
        await store.put(keys.member(Role.TRAINER, str(rank)), new_member(Role.TRAINER, str(rank), name))
        seen: PhaseRecord | None = None
        while True:

            def find_new(values: Mapping[str, PhaseRecord], before: PhaseRecord | None = seen) -> PhaseRecord | None:
                phase = values.get("")
                return phase if phase != before else None

            seen = await phases.wait_for(find_new, WAIT_SECONDS)
            ack = Ack(member=name, iteration=seen.iteration, phase=seen.phase, measurements={"seen_at": time.time()})
            await store.put(keys.ack(seen.iteration, seen.phase, name), ack)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], range(int(sys.argv[3]), int(sys.argv[4]))))
