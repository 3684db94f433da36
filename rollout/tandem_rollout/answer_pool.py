"""Keeps the engines busy: hands answers to engines, takes back what they made, goes on elsewhere when one is lost."""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Member, Role

from tandem_rollout.answers import Answer, apply_generated, build_request
from tandem_rollout.engine_client import EngineClient, EngineLost
from tandem_rollout.routing import Engine, choose_engine, serving_engines

log = structlog.get_logger()

ALL_ENGINES = frozenset({Role.SIDECAR, Role.INFERENCE})
STANDALONE_ENGINES = frozenset({Role.INFERENCE})
RETRY_SECONDS = 1.0
"""How long an engine that lost a request gets no other, unless it has started anew by then."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A request on its way."""

    answers: list[Answer]
    engine: Engine
    iteration: int
    task: asyncio.Task[None] | None = None


class AnswerPool:
    """Answers wait here until an engine has room for them; `run` is its task.

    An answer leaves the pool, with a call of its `on_settled`, when it is finished or its budget is spent. Answers that
    come back aborted go on by themselves with what is left of their budget, as soon as an engine may have them.
    """

    def __init__(self, client: EngineClient, members: Mirror[Member], *, max_staleness: int) -> None:
        self._client = client
        self._members = members
        self._max_staleness = max_staleness
        self._roles: Collection[Role] = STANDALONE_ENGINES
        self._ready: deque[list[Answer]] = deque()
        self._flights: set[_Flight] = set()
        self._shunned: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._landed = asyncio.Event()
        self.newest_version = -1
        """The newest committed weight version."""
        self.tokens_generated = 0
        """Since the start of this process."""

    @property
    def engines_serving(self) -> int:
        """Engines that may get requests now, whatever the phase."""
        return len(self._engines(ALL_ENGINES))

    def submit(self, works: Sequence[list[Answer]]) -> None:
        """Add answers; those of one inner list share their tokens so far and are asked for in one request."""
        self._ready.extend(works)
        self._wake.set()

    def withdraw(self, answers: Collection[Answer]) -> None:
        """Forget these answers; requests of theirs are given up."""
        for flight in [flight for flight in self._flights if flight.answers[0] in answers]:
            self._give_up(flight)
        self._ready = deque(work for work in self._ready if work[0] not in answers)

    def use_engines(self, roles: Collection[Role]) -> None:
        """From now on requests go only to engines of these roles; those on their way go on."""
        self._roles = roles
        self._wake.set()

    async def run(self) -> None:
        """Hand out requests until cancelled. Raises EngineRefused (in an ExceptionGroup)."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_members())
            while True:
                self._wake.clear()
                for flight in self._plan_flights():
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
            await self._members.next_change()
            self._give_up_lost()
            self._wake.set()

    def _engines(self, roles: Collection[Role]) -> dict[str, Engine]:
        engines = serving_engines(
            self._members.values, newest_version=self.newest_version, max_staleness=self._max_staleness, roles=roles
        )
        return {name: engine for name, engine in engines.items() if self._shunned.get(name) != engine.incarnation}

    def _plan_flights(self) -> list[_Flight]:
        flights: list[_Flight] = []
        if not self._ready:
            return flights
        engines = self._engines(self._roles)
        loads: dict[str, int] = {}
        for flight in self._flights:
            loads[flight.engine.name] = loads.get(flight.engine.name, 0) + len(flight.answers)
        while self._ready:
            work = self._ready[0]
            engine = choose_engine(engines, loads, work[0].engine)
            if engine is None:
                break
            self._ready.popleft()
            if len(work) > engine.capacity:  # vLLM refuses more answers in a request than it runs at a time
                self._ready.appendleft(work[engine.capacity :])
                work = work[: engine.capacity]
            loads[engine.name] = loads.get(engine.name, 0) + len(work)
            for answer in work:
                answer.flying = True
            flights.append(_Flight(work, engine, work[0].iteration))
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
        for answer, generated in zip(flight.answers, results, strict=True):
            self.tokens_generated += len(generated.tokens)
            answer.flying = False
            apply_generated(answer, generated, iteration=flight.iteration, engine=engine.name)
            if answer.settled:
                answer.on_settled(answer)
            else:
                self._ready.appendleft([answer])
        self._landed.set()
        self._wake.set()

    def _give_up_lost(self) -> None:
        """Take back the requests of engines that are gone or have started anew."""
        for flight in list(self._flights):
            member = self._members.values.get(flight.engine.name)
            if member is None or not flight.engine.incarnation.startswith(f"{member.incarnation}/"):
                log.warning("engine is gone, its requests go elsewhere", engine=flight.engine.name)
                self._give_up(flight)

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
