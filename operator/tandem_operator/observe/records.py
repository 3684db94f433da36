"""What a job tells about itself in etcd."""

from dataclasses import dataclass

from etcd3aio.kv import KVService
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.records import Control, Load, PhaseRecord, Record, Summary
from tandem_core.coordination.store import Store


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one revision of etcd; None: not there."""

    phase: PhaseRecord | None = None
    summary: Summary | None = None
    load: Load | None = None
    control: Control | None = None

    @property
    def stopped(self) -> bool:
        """Whether the job ended because it was asked to, and can go on later."""
        return self.phase is not None and self.phase.stopped

    @property
    def stop_asked(self) -> bool:
        """Whether the operator has asked the job to stop."""
        return self.control is not None and self.control.stop

    @property
    def begun(self) -> bool:
        """Whether a master has been at work."""
        return self.phase is not None


async def observe_records(store: Store, keys: JobKeys) -> Records:
    """The job's records, all read at once; raises EtcdUnreachable."""
    names = (keys.phase, keys.summary, keys.load, keys.control)
    response = await store.transact([], [KVService.txn_op_get(name) for name in names])
    values = [answer.response_range.kvs for answer in response.responses]

    def parse[R: Record](number: int, kind: type[R]) -> R | None:
        return kind.model_validate_json(values[number][0].value) if values[number] else None

    return Records(parse(0, PhaseRecord), parse(1, Summary), parse(2, Load), parse(3, Control))
