"""How a job stands in etcd: `python -m tandem_core.coordination.snapshot` prints it as JSON.

`kubectl tandem` runs it in a pod of the job, which has the job's own user in etcd.
"""

import asyncio
import sys

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.records import Ack, Control, Load, Member, PhaseRecord, Record, Summary
from tandem_core.coordination.store import CALL_TIMEOUT_SECONDS, Store
from tandem_core.environment import PodEnvironment
from tandem_core.errors import TandemError
from tandem_core.logs import configure_logs
from tandem_core.weights.manifest import Commit

PATIENCE_SECONDS = 10.0


class JobSnapshot(Record):
    """The records of a job that tell how it is; read one after another. None: not there."""

    phase: PhaseRecord | None = None
    summary: Summary | None = None
    load: Load | None = None
    control: Control | None = None
    led: bool = False
    """Whether a master leads."""
    newest_version: int | None = None
    """The newest committed weights."""
    members: tuple[Member, ...] = ()
    acks: tuple[Ack, ...] = ()
    """Of the phase's iteration."""


class _Leader(Record):
    name: str


async def observe_snapshot(store: Store, keys: JobKeys) -> JobSnapshot:
    """The job's records as they are now; raises EtcdUnreachable."""
    phase = await store.get(keys.phase, PhaseRecord)
    commit = await store.get(keys.newest_commit, Commit)
    acks = await store.list_prefix(keys.acks(phase.iteration), Ack) if phase is not None else {}
    members = await store.list_prefix(keys.members, Member)
    return JobSnapshot(
        phase=phase,
        summary=await store.get(keys.summary, Summary),
        load=await store.get(keys.load, Load),
        control=await store.get(keys.control, Control),
        led=await store.get(keys.leader, _Leader) is not None,
        newest_version=commit.version if commit is not None else None,
        members=tuple(members[name] for name in sorted(members)),
        acks=tuple(acks[name] for name in sorted(acks)),
    )


async def _observe_own() -> JobSnapshot:
    pod = PodEnvironment.from_environment()
    async with asyncio.timeout(PATIENCE_SECONDS + 2 * CALL_TIMEOUT_SECONDS):
        async with Store(pod.etcd_access(), patience_seconds=PATIENCE_SECONDS) as store:
            return await observe_snapshot(store, JobKeys(pod.job_uid))


def main() -> int:
    """Exit code: 1 if etcd could not be read."""
    configure_logs(part="snapshot")  # to stderr: what is printed is read by a program
    try:
        print(asyncio.run(_observe_own()).model_dump_json())
    except (TandemError, TimeoutError) as error:
        print(error or "etcd did not answer in time", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
