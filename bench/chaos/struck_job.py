"""One job that faults happen to, one after the other."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror, MirrorFailed
from tandem_core.coordination.records import EngineState, Member, PhaseRecord, Role
from tandem_core.coordination.store import EtcdUnreachable, Store
from tandem_core.phases import Phase

from bench.chaos.faults import Blow, Fault, Part
from bench.chaos.job_process import JobDidNotStart, JobProcess
from bench.chaos.processes import Processes, observe_run
from bench.chaos.strikes import Disks, NothingToStrike, carry_out
from bench.chaos.timeline import Recovery, Timeline, measure_recovery

START_SECONDS = 300.0
RECOVERY_SECONDS = 300.0
"""Longest time until everything runs again."""
END_SECONDS = 900.0
_CALM_ITERATIONS = 2
"""Undisturbed ones before the next strike."""
_SPARE_ITERATIONS = 12
"""What a fault must find before the job's end, so that the job is whole again then."""
_SPARE_ITERATIONS_BEHIND = 120
"""What a fault of an inference pod must find: the job goes on while the pod starts anew."""
_LOOK_SECONDS = 0.25
_ATTEMPTS = 4
_WITHIN = 0.7
"""A strike comes in this first part of a phase's usual time."""
_MEMBERS = {
    Part.RANK: Role.TRAINER,
    Part.TORCHRUN: Role.TRAINER,
    Part.CHECKPOINT_ENGINE: Role.SIDECAR,
    Part.POD_CHECKPOINT_ENGINE: Role.INFERENCE,
    Part.MASTER: Role.MASTER,
}
"""Whose members are new after a part was struck."""


class JobLost(Exception):
    """The job cannot be struck any further; the message says why."""


@dataclass(frozen=True)
class Strike:
    """A fault that has happened."""

    fault: Fault
    phase: Phase
    """In which it really happened."""
    struck_at: float
    before: Processes
    members: Mapping[str, Member]


@dataclass
class StruckJob:
    """Lets faults happen to a job until there are none left, the time is over, or the job is about to end."""

    job: JobProcess
    seed: int
    """Of the moments."""
    until: float
    """time.monotonic() after which no other fault begins."""
    say: Callable[[str], None]
    timeline: Timeline = field(default_factory=Timeline)
    recoveries: list[tuple[Strike, Recovery]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def run(self, faults: "deque[Fault]") -> None:
        """Takes from `faults` what it lets happen, and waits for the job's end."""
        strikes: list[tuple[Strike, float]] = []
        try:
            self.job.start()
            state = await self.job.wait_until_running()
            keys = JobKeys(state.uid)
            async with (
                Store(state.etcd_endpoint) as store,
                Mirror(store, keys.phase, PhaseRecord) as self._phases,
                Mirror(store, keys.members, Member) as self._members,
            ):
                following = asyncio.create_task(self._follow())
                await self._wait_for(_reached(3), START_SECONDS, "the first iterations")
                if _spare_iterations(faults[0]) >= self.job.iterations:
                    raise JobLost(f"{self.job.iterations} iterations are too few for: {faults.popleft()}")
                while faults and self._has_room(faults[0]):
                    strike = await self._strike(faults.popleft())
                    strikes.append((strike, await self._mend(strike)))
                await self._wait_for(lambda phase: phase.phase.final, END_SECONDS, "the end of the job")
                following.cancel()
            if await self.job.wait(END_SECONDS) is None:
                raise JobLost(f"`tandem run` did not end within {END_SECONDS:.0f} s of the job's end")
        except (JobLost, JobDidNotStart, EtcdUnreachable, MirrorFailed, TimeoutError) as error:
            self.problems.append(str(error))
        finally:
            await self.job.end()
        self.recoveries += [
            (strike, measure_recovery(self.timeline, strike.struck_at, whole_at)) for strike, whole_at in strikes
        ]

    def _has_room(self, fault: Fault) -> bool:
        enough = self._now.iteration + _spare_iterations(fault) <= self.job.iterations
        return enough and time.monotonic() < self.until

    @property
    def _now(self) -> PhaseRecord:
        return self.timeline.records[-1]

    async def _follow(self) -> None:
        while True:
            if self._phases.value is not None:
                self.timeline.add(self._phases.value)
            await self._phases.next_change()

    async def _strike(self, fault: Fault) -> Strike:
        """Waits for the fault's phase and lets it happen."""
        choice = random.Random(f"{self.seed} {fault}")
        for _ in range(_ATTEMPTS):
            before, members = observe_run(self.job.runner), dict(self._members.values)
            disks = Disks.of(self.job.runner, self.job.checkpoints)
            after = self._now.iteration
            delay = choice.uniform(0, _WITHIN) * self.timeline.usual_phase_seconds(fault.phase)
            await self._wait_for(_in_phase(fault.phase, after + 1), RECOVERY_SECONDS, f"{fault.phase}")
            await asyncio.sleep(delay)
            if self._phases.value is None or self._phases.value.phase is not fault.phase:
                continue  # shorter than usual
            struck_at = time.time()
            self.timeline.struck.add(self._phases.value.iteration)
            try:
                await carry_out(fault, before.parts[fault.part], disks)
            except (NothingToStrike, KeyError, psutil.NoSuchProcess) as error:
                raise JobLost(f"{fault}: cannot be done: {error!r}") from error
            real = self.timeline.at(struck_at)
            self.say(f"{fault}: iteration {real.iteration}" + ("" if real.phase is fault.phase else f", {real.phase}"))
            return Strike(fault, real.phase, struck_at, before, members)
        raise JobLost(f"{fault}: the phase was too short {_ATTEMPTS} times")

    async def _mend(self, strike: Strike) -> float:
        """When everything ran again; returns some undisturbed iterations later. Raises JobLost."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while missing := self._missing(strike):
            self._check_running(str(strike.fault))
            if time.monotonic() > deadline:
                raise JobLost(f"{strike.fault}: not whole after {RECOVERY_SECONDS:.0f} s: {missing}")
            self.timeline.struck.add(self._now.iteration)
            await asyncio.sleep(_LOOK_SECONDS)
        whole_at = time.time()
        self._check_way(strike)
        self.say(f"{strike.fault}: whole after {whole_at - strike.struck_at:.1f} s, iteration {self._now.iteration}")
        self.timeline.struck.add(self._now.iteration)
        calm = min(self._now.iteration + _CALM_ITERATIONS + 1, self.job.iterations)
        await self._wait_for(_reached(calm), RECOVERY_SECONDS, f"iteration {calm} after {strike.fault}")
        return whole_at

    def _missing(self, strike: Strike) -> str:
        """What is not yet as it was before; empty: nothing."""
        now, part = observe_run(self.job.runner), strike.fault.part
        if absent := strike.before.parts.keys() - now.parts.keys():
            return f"no {', '.join(sorted(absent))}"
        if strike.fault.blow is not Blow.AWAY and now.parts[part] == strike.before.parts[part]:
            return f"the {part} is still the one that was struck"
        if surplus := now.census - strike.before.census:
            return f"left over: {dict(surplus)}"
        if absent_members := strike.members.keys() - self._members.values.keys():
            return f"no member {', '.join(sorted(absent_members))}"
        for name, member in self._members.values.items():
            before = strike.members.get(name)
            new = member.role is _MEMBERS.get(part)
            if new and before is not None and before.incarnation == member.incarnation:
                return f"{name} is the one that was struck"
            engine = member.engine
            if engine is not None and (
                engine.state is not EngineState.SERVING or engine.version < self._now.iteration - 1
            ):
                return f"the engine of {name} is {engine.state} with version {engine.version}"
        return ""

    def _check_way(self, strike: Strike) -> None:
        """Ranks are to start again below the same torchrun, and not from a damaged checkpoint."""
        if strike.fault.blow is Blow.CORRUPT and not self.job.logged("trainer.log", "checkpoint is damaged"):
            self.problems.append(f"{strike.fault}: nobody noticed the damage")
        if strike.fault.blow is Blow.FILL_DISK and not self.job.logged("trainer.log", "no checkpoint; going on"):
            self.problems.append(f"{strike.fault}: no checkpoint failed, although the disk was full")
        if strike.fault.part is Part.RANK:
            before, now = strike.before.parts, observe_run(self.job.runner).parts
            if before[Part.TORCHRUN] != now[Part.TORCHRUN]:
                self.problems.append(f"{strike.fault}: the ranks did not restart in place, torchrun is a new one")

    def _check_running(self, what: str) -> None:
        if self.job.exit_code is not None:
            raise JobLost(f"{what}: the job ended with {self.job.exit_code}: see {self.job.output}")

    async def _wait_for(self, condition: Callable[[PhaseRecord], bool], seconds: float, what: str) -> None:
        def met(values: Mapping[str, PhaseRecord]) -> bool:
            return "" in values and condition(values[""])

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._check_running(what)
            try:
                await self._phases.wait_for(met, 1.0)
            except TimeoutError:
                continue
            if self._phases.values[""].phase is Phase.FAILED:
                raise JobLost(f"{what}: the job failed: {self._phases.values[''].reason}")
            return
        raise JobLost(f"{what}: not within {seconds:.0f} s; the job is in {self._phases.value}")


def _spare_iterations(fault: Fault) -> int:
    return _SPARE_ITERATIONS_BEHIND if fault.part is Part.POD_CHECKPOINT_ENGINE else _SPARE_ITERATIONS


def _reached(iteration: int) -> Callable[[PhaseRecord], bool]:
    return lambda record: record.iteration >= iteration or record.phase.final


def _in_phase(phase: Phase, first_iteration: int) -> Callable[[PhaseRecord], bool]:
    return lambda record: (record.phase is phase and record.iteration >= first_iteration) or record.phase.final
