"""Keeps the engines busy: hands answers to engines, takes back what they made, goes on elsewhere when one is lost."""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import structlog
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import EngineState, Member, Role

from tandem_rollout.answers import Answer, apply_generated, build_request
from tandem_rollout.engine_client import EngineClient, EngineLost
from tandem_rollout.engine_speed import SpeedMeter
from tandem_rollout.metrics import note_generated, note_segments
from tandem_rollout.routing import (
    Engine,
    choose_engine,
    engine_incarnation,
    engines_with_room,
    fair_share,
    serving_engines,
)

log = structlog.get_logger()

ALL_ENGINES = frozenset({Role.SIDECAR, Role.INFERENCE})
HYBRID_ENGINES = frozenset({Role.SIDECAR})
STANDALONE_ENGINES = frozenset({Role.INFERENCE})
RETRY_SECONDS = 1.0
"""How long an engine that lost a request gets no other, unless it has started anew by then."""
RETURN_SECONDS = 6.0
"""How long requests of a member whose lease has run out are waited for: when only etcd was away, all leases run out at
once, and members are back after a third of the lease's time."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A request on its way."""

    answers: list[Answer]
    engine: Engine
    iteration: int
    sent_at: float = field(default_factory=time.monotonic)
    task: asyncio.Task[None] | None = None
    doubtful: bool = False
    """Whether its engine is being waited for."""


class AnswerPool:
    """Answers wait here until an engine has room for them; `run` is its task.

    An answer leaves the pool, with a call of its `on_settled`, when it is finished or its budget is spent. Answers that
    come back aborted go on by themselves with what is left of their budget, as soon as an engine may have them.
    """

    def __init__(self, client: EngineClient, members: Mirror[Member]) -> None:
        self._client = client
        self._members = members
        self._roles: Collection[Role] = STANDALONE_ENGINES
        self._ready: deque[list[Answer]] = deque()
        self._flights: set[_Flight] = set()
        self._shunned: dict[str, str] = {}
        self._served: dict[str, str] = {}
        self._oldest_version = 0
        self._wake = asyncio.Event()
        self._landed = asyncio.Event()
        self.tokens_generated = 0
        """Since the start of this process, evaluations apart."""
        self.standalone_tokens = 0
        """Those of them that standalone engines generated."""
        self.draining: frozenset[str] = frozenset()
        """The inference pods that get no requests."""
        self.first_request_at = 0.0
        """When the first request was sent since this was set to 0; Unix seconds."""
        self.speed = SpeedMeter()
        """Of the engines, evaluations apart."""

    def count_serving(self, roles: Collection[Role] = ALL_ENGINES) -> int:
        """Engines of these roles that may get requests, whatever the phase."""
        return sum(engine.version >= self._oldest_version for engine in self._engines(roles).values())

    def count_answers(self) -> dict[str, int]:
        """Answers on their way to each engine (role/pod); none for engines without."""
        loads: dict[str, int] = {}
        for flight in self._flights:
            loads[flight.engine.name] = loads.get(flight.engine.name, 0) + len(flight.answers)
        return loads

    def drain(self, pods: Collection[str]) -> None:
        """From now on these inference pods get no requests; their checkpoint engines hand back what they work on."""
        self.draining = frozenset(pods)
        self._give_up_lost()
        self._wake.set()

    def submit(self, works: Sequence[list[Answer]]) -> None:
        """Add answers; those of one inner list share their tokens so far and are asked for in one request."""
        self._ready.extend(works)
        self._wake.set()

    def withdraw(self, answers: Collection[Answer]) -> None:
        """Forget these answers; requests of theirs are given up."""
        for flight in [flight for flight in self._flights if flight.answers[0] in answers]:
            self._give_up(flight)
        self._ready = deque(work for work in self._ready if work[0] not in answers)

    def require_version(self, oldest_version: int) -> None:
        """From now on no older weights work on anything; requests that they work on are given up."""
        self._oldest_version = oldest_version
        for flight in [flight for flight in self._flights if flight.engine.version < oldest_version]:
            log.warning("an engine is too far behind, its requests are made anew", engine=flight.engine.name)
            self._give_up(flight)

    def use_engines(self, roles: Collection[Role]) -> None:
        """From now on requests go only to engines of these roles, evaluations' apart; those on their way go on."""
        self._roles = roles
        self._wake.set()

    async def run(self) -> None:
        """Hand out requests until cancelled. Raises EngineRefused (in an ExceptionGroup)."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_members())
            while True:
                self._wake.clear()
                for flight in self._plan_flights():
                    self.first_request_at = self.first_request_at or time.time()
                    self._flights.add(flight)
                    flight.task = tasks.create_task(self._fly(flight))
                await self._wake.wait()

    async def wait_landed(self, roles: Collection[Role]) -> None:
        """Return as soon as no request is on its way to engines of `roles`: they have answered, or `recall` was called.

        Engines give back partial answers when they are paused.
        """
        while any(flight.engine.role in roles for flight in self._flights):
            self._landed.clear()
            await self._landed.wait()

    async def recall(self, roles: Collection[Role], grace_seconds: float) -> None:
        """`wait_landed`; what has not come back after `grace_seconds` is taken back without tokens.

        A request that reaches an engine just after it was paused waits in it until it is resumed.
        """
        try:
            async with asyncio.timeout(grace_seconds):
                await self.wait_landed(roles)
        except TimeoutError:
            late = [flight for flight in self._flights if flight.engine.role in roles]
            log.warning("requests did not come back from drained engines, taking them back", requests=len(late))
            for flight in late:
                self._give_up(flight)

    async def _follow_members(self) -> None:
        while True:
            self._served |= {name: engine.incarnation for name, engine in self._engines(ALL_ENGINES).items()}
            await self._members.next_change()
            self._give_up_lost()
            self._wake.set()

    def _engines(self, roles: Collection[Role]) -> dict[str, Engine]:
        engines = serving_engines(self._members.values, roles)
        return {
            name: engine
            for name, engine in engines.items()
            if self._shunned.get(name) != engine.incarnation and self._members.values[name].name not in self.draining
        }

    def _plan_flights(self) -> list[_Flight]:
        flights: list[_Flight] = []
        if not self._ready:
            return flights
        engines = self._engines(ALL_ENGINES)
        loads = self.count_answers()
        answers = sum(loads.values()) + sum(len(work) for work in self._ready)
        share = fair_share(self._members.values, self._served, self._roles, answers)
        waiting: deque[list[Answer]] = deque()
        while self._ready and (free := engines_with_room(engines.values(), loads, share)):
            work = self._ready.popleft()
            oldest = max(self._oldest_version, work[0].oldest_version)
            roles = self._roles if work[0].trajectory.is_kept else ALL_ENGINES
            allowed = [engine for engine in free if engine.role in roles]
            engine = choose_engine(allowed, loads, oldest_version=oldest, preferred=work[0].engine)
            if engine is None:
                waiting.append(work)
                continue
            if len(work) > engine.capacity:  # vLLM refuses more answers in a request than it runs at a time
                self._ready.appendleft(work[engine.capacity :])
                work = work[: engine.capacity]
            loads[engine.name] = loads.get(engine.name, 0) + len(work)
            for answer in work:
                answer.flying = True
            flights.append(_Flight(work, engine, work[0].iteration))
            if work[0].trajectory.is_kept:
                self.speed.note_full(engine.role, loads[engine.name])
        self._ready.extendleft(reversed(waiting))
        return flights

    async def _fly(self, flight: _Flight) -> None:
        engine = flight.engine
        try:
            results = await self._client.generate(
                engine.url, build_request(flight.answers), engine_version=engine.version
            )
        except EngineLost as error:
            if flight in self._flights:
                log.warning("engine lost a request, it goes elsewhere", engine=engine.name, error=str(error))
                self._shun(engine)
                self._return(flight)
            return
        if flight not in self._flights:
            return  # given up meanwhile: its answers are on their way elsewhere
        self._flights.discard(flight)
        seconds = time.monotonic() - flight.sent_at
        for answer, generated in zip(flight.answers, results, strict=True):
            made = len(generated.tokens) if answer.trajectory.is_kept else 0
            self.tokens_generated += made
            self.standalone_tokens += made if engine.role in STANDALONE_ENGINES else 0
            if answer.trajectory.is_kept:
                self.speed.note_answer(engine.role, made, seconds)
                note_generated(engine.role, made)
            answer.flying = False
            segments = len(answer.trajectory.segments)
            apply_generated(answer, generated, iteration=flight.iteration, engine=engine.name)
            if answer.trajectory.is_kept:
                note_segments(answer.trajectory.segments[segments:])
            if answer.settled:
                answer.on_settled(answer)
            else:
                self._ready.appendleft([answer])
        self._landed.set()
        self._wake.set()

    def _give_up_lost(self) -> None:
        """Take back the requests of engines that have started anew, and after a while of those that are gone."""
        for flight in list(self._flights):
            member = self._members.values.get(flight.engine.name)
            if member is not None and flight.engine.incarnation != engine_incarnation(member):
                log.warning("engine has started anew, its requests go elsewhere", engine=flight.engine.name)
                self._give_up(flight)
            elif self._is_gone(flight) and not flight.doubtful:
                flight.doubtful = True
                asyncio.get_running_loop().call_later(RETURN_SECONDS, self._give_up_gone, flight)

    def _give_up_gone(self, flight: _Flight) -> None:
        flight.doubtful = False
        if flight in self._flights and self._is_gone(flight):
            log.warning("engine is gone, its requests go elsewhere", engine=flight.engine.name)
            self._give_up(flight)

    def _is_gone(self, flight: _Flight) -> bool:
        """Whether the engine's lease has run out, or it drains and has handed back all that it knew of."""
        member = self._members.values.get(flight.engine.name)
        if member is None:
            return True
        serving = member.engine is not None and member.engine.state == EngineState.SERVING
        return member.role == Role.INFERENCE and member.name in self.draining and not serving

    def _give_up(self, flight: _Flight) -> None:
        self._return(flight)
        if flight.task is not None:
            flight.task.cancel()

    def _return(self, flight: _Flight) -> None:
        self._flights.discard(flight)
        for answer in flight.answers:
            answer.flying = False
        self._ready.appendleft(flight.answers)
        self._landed.set()
        self._wake.set()

    def _shun(self, engine: Engine) -> None:
        self._shunned[engine.name] = engine.incarnation

        def forgive() -> None:
            if self._shunned.get(engine.name) == engine.incarnation:
                del self._shunned[engine.name]
                self._wake.set()

        asyncio.get_running_loop().call_later(RETRY_SECONDS, forgive)
