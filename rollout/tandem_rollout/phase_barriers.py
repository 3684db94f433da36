"""Waiting for the members of a job, phase by phase."""

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import Self

import structlog
from tandem_core.coordination.barrier import AckError, BarrierTimeout, wait_for_acks
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, Member
from tandem_core.coordination.store import Store
from tandem_core.job import RLJob
from tandem_core.phases import Phase

from tandem_rollout.expected_members import (
    all_answered,
    list_names,
    list_problems,
    missing_members,
    sidecar_names,
    trainer_names,
)
from tandem_rollout.phase_plan import phase_deadline

log = structlog.get_logger()

LOOK_SECONDS = 5.0
"""How often a wait looks whether its deadline is put off."""


class PhaseBarriers:
    """All waits have the spec's deadlines, and their errors name who is missing; an async context manager."""

    def __init__(
        self,
        job: RLJob,
        store: Store,
        keys: JobKeys,
        members: Mirror[Member],
        *,
        pods_wait: Callable[[], bool] = lambda: False,
        batches_asked: Callable[[], int] = lambda: 0,
    ) -> None:
        """`pods_wait`: whether pods wait for devices, a queue or a quota. `batches_asked`: how often ranks have asked
        for a batch: after a restart they train again on all since the checkpoint. Both put deadlines off."""
        self._job = job
        self.spec = job.spec
        """As it is now; the driver brings it up to date."""
        self._keys = keys
        self._members = members
        self._pods_wait, self._batches_asked = pods_wait, batches_asked
        self._trainers = trainer_names(job)
        self._sidecars = sidecar_names(job)
        self._prefix = keys.all_acks
        # One watch for all phases: etcd tells a new one of what was before it only after up to 100 ms.
        self._acks: Mirror[Ack] = Mirror(store, self._prefix, Ack)
        self._waiting: tuple[str, Collection[str]] | None = None

    async def __aenter__(self) -> Self:
        await self._acks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._acks.__aexit__(kind, error, trace)

    @property
    def missing(self) -> tuple[str, ...]:
        """Members that have not acknowledged the phase yet; empty if it waits for something else."""
        if self._waiting is None:
            return ()
        below, expected = self._waiting
        return tuple(sorted(name for name in expected if below + name not in self._acks.values))

    async def wait_for_members(self) -> None:
        """Return when all ranks and sidecars are registered. Raises BarrierTimeout."""
        timeout = self.spec.deadlines.startup
        try:
            await self._patiently(
                lambda seconds: self._members.wait_for(lambda found: not missing_members(self._job, found), seconds),
                timeout,
            )
        except TimeoutError:
            missing = tuple(missing_members(self._job, self._members.values))
            raise BarrierTimeout(
                f"{len(missing)} members did not come up within {timeout:g} s (spec.deadlines.startup): "
                f"{list_names(missing)}. Look at their pods' events and logs",
                missing,
                {},
            ) from None

    async def wait_for_trainers(self, phase: Phase, iteration: int) -> list[Ack]:
        """The acknowledgements of all ranks, by rank. Raises AckError or BarrierTimeout."""
        with self._waits_for(phase, iteration, self._trainers) as below:
            try:
                acks = await self._patiently(
                    lambda seconds: wait_for_acks(self._acks, self._trainers, seconds, below=below),
                    phase_deadline(self.spec, phase),
                )
            except BarrierTimeout as error:
                raise self._late(phase, error.missing) from None
        return [acks[name] for name in self._trainers]

    async def wait_for_drained(self, iteration: int) -> list[Ack]:
        """The acknowledgements of all sidecars in Draining; one that failed may answer again until the deadline.

        Sidecars that are gone at the deadline are left out: what does not run holds no device, and the trainer of its
        pod waits for its successor by itself. Raises AckError, or BarrierTimeout for those that run.
        """
        expected = self._sidecars
        with self._waits_for(Phase.DRAINING, iteration, expected) as below:
            with contextlib.suppress(TimeoutError):
                await self._acks.wait_for(
                    lambda acks: all_answered(acks, expected, below), phase_deadline(self.spec, Phase.DRAINING)
                )
            try:
                return list((await wait_for_acks(self._acks, expected, 0.0, below=below)).values())
            except BarrierTimeout as error:
                present = {f"{member.role}-{member.name}" for member in self._members.values.values()}
                if present & set(error.missing):
                    raise self._late(Phase.DRAINING, error.missing) from None
                log.warning("going on without sidecars that are gone", missing=error.missing)
                return list(error.acks.values())

    async def wait_for_loaded(self, version: int) -> list[Ack]:
        """The acknowledgements of the sidecars that serve `version`.

        Goes on without stragglers at the deadline, and at once without those that failed if others have the version.
        If its bytes are damaged for all of them, these acknowledgements are returned at once. Raises AckError if all
        that answered failed otherwise.
        """

        def settled(acks: Mapping[str, Ack]) -> bool:
            answers = [ack for name in self._sidecars if (ack := acks.get(below + name)) is not None]
            return len(answers) == len(self._sidecars) and (
                any(not ack.error for ack in answers) or all(ack.damaged for ack in answers)
            )

        with self._waits_for(Phase.LOADING, version, self._sidecars) as below:
            try:
                await self._acks.wait_for(settled, phase_deadline(self.spec, Phase.LOADING))
            except TimeoutError:
                log.warning("going on without engines that have not loaded", version=version, missing=self.missing)
        keys = [below + name for name in self._sidecars]
        answered = [self._acks.values[key] for key in keys if key in self._acks.values]
        loaded = [ack for ack in answered if not ack.error]
        for ack in answered:
            if ack.error:
                log.warning("going on without an engine", member=ack.member, version=version, error=ack.error)
        if answered and all(ack.damaged for ack in answered):
            return answered
        if answered and not loaded:
            raise AckError(answered[0])
        return loaded

    async def _patiently[T](self, wait: Callable[[float], Awaitable[T]], seconds: float) -> T:
        """The result of `wait`, which is given the seconds that it may take: from when no pod waits for a place any
        more, and from the last batch that was asked for."""
        left, asked = seconds, self._batches_asked()
        while True:
            this_time = min(left, LOOK_SECONDS)
            try:
                return await wait(this_time)
            except (TimeoutError, BarrierTimeout):
                before, asked = asked, self._batches_asked()
                left = seconds if self._pods_wait() or asked != before else left - this_time
                if left <= 0:
                    raise

    def _late(self, phase: Phase, missing: tuple[str, ...]) -> BarrierTimeout:
        deadline = phase_deadline(self.spec, phase)
        told = list_problems(self._members.values.values()) or "Look at their logs"
        return BarrierTimeout(
            f"{len(missing)} members did not answer within {deadline:g} s of {phase} (spec.deadlines.{phase.lower()}): "
            f"{list_names(missing)}. {told}; if they only need longer, raise the deadline",
            missing,
            {},
        )

    @contextlib.contextmanager
    def _waits_for(self, phase: Phase, iteration: int, expected: Collection[str]) -> Iterator[str]:
        """Gives the phase's part of the acknowledgements' keys."""
        below = self._keys.acks(iteration, phase).removeprefix(self._prefix)
        self._waiting = below, expected
        try:
            yield below
        finally:
            self._waiting = None
