"""Follows in etcd what the job says about itself."""

import asyncio
from collections.abc import Callable

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror, MirrorFailed
from tandem_core.coordination.records import Control, PhaseRecord, Summary
from tandem_core.coordination.store import EtcdUnreachable, Store
from tandem_core.job import RLJob
from tandem_core.phases import Phase

log = structlog.get_logger()

_TRY_AGAIN_SECONDS = 5.0


class JobFollower:
    """The newest summary and phase of a job."""

    def __init__(self, job: RLJob, on_change: Callable[[], None]) -> None:
        self._keys = JobKeys(job.metadata.uid)
        self._on_change = on_change
        self.summary: Summary | None = None
        self.phase: PhaseRecord | None = None
        self.control: Control | None = None
        """What is asked of the job."""
        self.finished = asyncio.Event()
        """Set when the job has reached its last phase, Done or Failed."""

    @property
    def failed(self) -> bool:
        """Whether the job says that it failed."""
        return self.phase is not None and self.phase.phase is Phase.FAILED

    @property
    def reason(self) -> str:
        """Why it failed, in its own words."""
        return self.phase.reason if self.phase is not None else ""

    async def run(self, store: Store) -> None:
        """Follow until cancelled; an etcd that is away is asked again."""
        while True:
            try:
                async with (
                    Mirror(store, self._keys.summary, Summary) as summaries,
                    Mirror(store, self._keys.phase, PhaseRecord) as phases,
                    Mirror(store, self._keys.control, Control) as control,
                    asyncio.TaskGroup() as group,
                ):
                    group.create_task(self._follow_summary(summaries))
                    group.create_task(self._follow_phase(phases))
                    group.create_task(self._follow_control(control))
            except* (EtcdUnreachable, MirrorFailed) as failures:
                log.warning("cannot follow the job in etcd", problems=[str(error) for error in failures.exceptions])
            await asyncio.sleep(_TRY_AGAIN_SECONDS)

    async def read_once(self, store: Store) -> None:
        """What stands in etcd now; if etcd is away, what was last seen stays."""
        try:
            self.phase = await store.get(self._keys.phase, PhaseRecord) or self.phase
            self.summary = await store.get(self._keys.summary, Summary) or self.summary
        except EtcdUnreachable as error:
            log.warning("the job's last words are lost", problem=str(error))

    async def _follow_summary(self, mirror: Mirror[Summary]) -> None:
        while True:
            if mirror.value is not None:
                self.summary = mirror.value
                self._on_change()
            await mirror.next_change()

    async def _follow_phase(self, mirror: Mirror[PhaseRecord]) -> None:
        while True:
            if mirror.value is not None:
                self.phase = mirror.value
                if mirror.value.phase.final:
                    self.finished.set()
                self._on_change()
            await mirror.next_change()

    async def _follow_control(self, mirror: Mirror[Control]) -> None:
        while True:
            self.control = mirror.value or self.control
            self._on_change()
            await mirror.next_change()
