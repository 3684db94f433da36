"""Trainer ranks and sidecars as coroutines: they follow the phases and acknowledge as the real ones do."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, Activity, EngineState, EngineStatus, PhaseRecord, Role
from tandem_core.coordination.store import Store
from tandem_core.job import RLJob, parse_job
from tandem_core.phases import Phase
from tandem_core.weights.manifest import ManifestPart, TensorSlice
from tandem_rollout.storage.replay_buffer import ReplayBuffer

JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: sums, uid: uid-1}
spec:
  iterations: 3
  model:
    scratch:
      layers: 2
      tokenizer: {tokens: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "+", "="]}
  data:
    dataset: {path: PROMPTS}
    heldOut: 0.2
  rewards:
    scorers: [{type: exact}]
  rollout: {prompts: 4, groupSize: 2, maxTokens: 8}
  hybrid:
    replicas: 2
    device: cpu
    trainer: {precision: fp32}
    inference: {release: none, kvCacheBytes: 67108864}
  deadlines: {startup: 20, warmup: 20, rollout: 20, draining: 20, training: 20, publishing: 20, loading: 20}
"""


def build_job(*overrides: str) -> RLJob:
    return parse_job(JOB, overrides=overrides)


@dataclass
class Members:
    """All ranks and sidecars of a job; `async with` starts them."""

    store: Store
    keys: JobKeys
    job: RLJob
    buffer: ReplayBuffer
    silent: set[tuple[str, Phase]] = field(default_factory=set)
    """Who does not acknowledge what, such as ("trainer-1", Phase.TRAINING)."""
    failing: dict[tuple[str, Phase], str] = field(default_factory=dict)
    damaged: dict[int, int] = field(default_factory=dict)
    """Version -> how often sidecars find other bytes than were attested."""
    trained: dict[int, list[int]] = field(default_factory=dict)
    """Rank -> the iterations it trained, in order."""
    loaded: list[int] = field(default_factory=list)
    """The versions that sidecars loaded, in order."""
    phases: list[tuple[Phase, int]] = field(default_factory=list)
    """What rank 0 saw."""
    incarnations: dict[int, str] = field(default_factory=dict)
    """Rank -> the incarnation in its manifest parts, if it is not "first"."""
    publishing: bool = True
    """False: the test publishes, and acknowledges that, in place of the ranks."""
    engine_url: str = "http://127.0.0.1:9"
    on_drain: Callable[[int], Awaitable[None]] | None = None
    """What sidecars do before they acknowledge Draining; gets the iteration."""
    on_load: Callable[[int], Awaitable[None]] | None = None
    """What sidecars do before they serve; gets the version."""
    _stopped: tuple[Phase, int] | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> "Members":
        for rank in range(self.job.spec.hybrid.world_size):
            member = new_member(Role.TRAINER, str(rank), f"{self.job.metadata.name}-hybrid-{rank}")
            await self._stack.enter_async_context(Membership(self.store, self.keys, member))
            self._tasks.append(asyncio.create_task(self._trainer(rank)))
        for index in range(self.job.spec.hybrid.replicas):
            pod = f"{self.job.metadata.name}-hybrid-{index}"
            membership = Membership(self.store, self.keys, new_member(Role.SIDECAR, pod, pod))
            await self._stack.enter_async_context(membership)
            self._tasks.append(asyncio.create_task(self._sidecar(pod, membership)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def stop_at(self, phase: Phase, iteration: int) -> None:
        """Nobody acknowledges this phase until `go_on`."""
        self._stopped = phase, iteration

    def go_on(self) -> None:
        """Acknowledge again; what was not is made good when the phase's record is written anew."""
        self._stopped = None

    async def acknowledge_again(self) -> None:
        """Ranks acknowledge the phase that they did not, as after `go_on`."""
        record = await self.store.get(self.keys.phase, PhaseRecord)
        assert record is not None
        for rank in range(self.job.spec.hybrid.world_size):
            await self._acknowledge(f"trainer-{rank}", record, loss=0.5)

    async def _trainer(self, rank: int) -> None:
        trained = -1
        mine = self.trained.setdefault(rank, [])
        async with Mirror(self.store, self.keys.phase, PhaseRecord) as mirror:
            record = None
            while True:
                record = await self._next(mirror, record)
                if rank == 0 and (record.phase, record.iteration) not in self.phases[-1:]:
                    self.phases.append((record.phase, record.iteration))
                if record.phase in (Phase.WARMUP, Phase.PUBLISHING, Phase.TRAINING, Phase.DONE):
                    needed = record.iteration
                    while trained < needed:
                        trained += 1
                        if trained:
                            assert await self.buffer.batch(trained) is not None
                            mine.append(trained)
                    if record.phase == Phase.PUBLISHING:
                        if not self.publishing:
                            continue
                        part = build_part(
                            record.version, rank, self.job.spec.hybrid.world_size, self.incarnations.get(rank, "first")
                        )
                        await self.store.put(self.keys.manifest_part(record.version, rank), part)
                    await self._acknowledge(f"trainer-{rank}", record, loss=0.5)

    async def _sidecar(self, pod: str, membership: Membership) -> None:
        async with Mirror(self.store, self.keys.phase, PhaseRecord) as mirror:
            record = None
            while True:
                record = await self._next(mirror, record)
                if record.phase in (Phase.DRAINING, Phase.LOADING):
                    serving = record.phase == Phase.LOADING
                    state = EngineState.SERVING if serving else EngineState.RELEASED
                    if serving:
                        self.loaded.append(record.version)
                    action = self.on_load if serving else self.on_drain
                    if action is not None:
                        await action(record.iteration)
                    version = record.version if serving else -1
                    await membership.update(engine=EngineStatus(url=self.engine_url, state=state, version=version))
                    await self._acknowledge(f"sidecar-{pod}", record)

    async def _next(self, mirror: Mirror[PhaseRecord], seen: PhaseRecord | None) -> PhaseRecord:
        return await mirror.wait_for(lambda values: values[""] if "" in values and values[""] != seen else None, None)

    async def _acknowledge(self, member: str, record: PhaseRecord, **measurements: float) -> None:
        if (member, record.phase) in self.silent or self._stopped == (record.phase, record.iteration):
            return
        now = time.time()
        loading = record.phase == Phase.LOADING
        damaged = loading and record.attempt < self.damaged.get(record.version, 0)
        ack = Ack(
            member=member,
            iteration=record.iteration,
            phase=record.phase,
            error="a wrong byte" if damaged else self.failing.get((member, record.phase), ""),
            damaged=damaged,
            activities=(Activity(name=record.phase.lower(), started_at=now, ended_at=now),),
            measurements=measurements,
        )
        await self.store.put(self.keys.ack(record.iteration, record.phase, member), ack)


def build_part(version: int, rank: int, world_size: int, incarnation: str = "first") -> ManifestPart:
    """Each rank holds one row of the only tensor."""
    piece = TensorSlice(
        name="weight",
        dtype="F32",
        global_shape=(world_size, 4),
        start=(rank, 0),
        shape=(1, 4),
        offset=0,
        checksum=hashlib.sha256(f"{version}/{rank}".encode()).hexdigest()[:16],
    )
    return ManifestPart(
        version=version,
        rank=rank,
        world_size=world_size,
        incarnation=incarnation,
        pod=f"sums-hybrid-{rank}",
        url="http://127.0.0.1:9",
        file=f"weights/{version % 2}/rank-{rank}.bin",
        file_bytes=16,
        slices=(piece,),
    )
