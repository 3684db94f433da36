"""An answer that is cut and continued is the answer that would have been given in one go: real vLLM, greedy."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import numpy as np
import pytest
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import EngineState, EngineStatus, Member, Role
from tandem_core.coordination.store import Store
from tandem_core.job.rollout import RepetitionSpec
from tandem_rollout.answer_pool import ALL_ENGINES, AnswerPool
from tandem_rollout.answers import Answer, Sampling, build_works
from tandem_rollout.engine_client import EngineClient
from tandem_rollout.trajectory import FinishReason, Trajectory

from tools.free_ports import find_free_port

from .tiny_engine import HEADERS, TOKEN, serve_tiny_engine

LENGTH = 300
ANY_VERSION = 1000
"""The engine's member goes on saying 0; only the tokens' labels tell of the version."""
PROMPTS = [[first, 7, 5] for first in range(2, 12)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_tiny_engine(tmp_path_factory.mktemp("engine"), find_free_port()) as url:
        yield url


class Bench:
    """A pool with one real engine, and answers to PROMPTS."""

    def __init__(self, pool: AnswerPool, url: str) -> None:
        self._pool = pool
        self._url = url
        self._settled = asyncio.Event()
        self.running = asyncio.create_task(pool.run())
        self.running.add_done_callback(lambda _: self._settled.set())
        self.answers: list[Answer] = []

    def ask(self, budget: int = LENGTH, **repetition: int) -> None:
        sampling = Sampling(0.0, 1.0, LENGTH, RepetitionSpec(**repetition), seed=0)
        self.answers = [
            Answer(Trajectory(place, place, place, 0), prompt, sampling, 1, budget, self._settle, ANY_VERSION)
            for place, prompt in enumerate(PROMPTS)
        ]
        self._pool.submit(build_works(self.answers))

    async def settle(self) -> None:
        try:
            async with asyncio.timeout(120):
                while not all(answer.settled for answer in self.answers):
                    self._settled.clear()
                    await self._settled.wait()
                    if self.running.done():
                        self.running.result()
        except TimeoutError:
            found = f"{self._pool.count_serving()} engines serve, on their way are {self._pool.count_answers()}"
            raise TimeoutError(f"not all answers settled: {found}") from None

    def go_on(self, iteration: int, budget: int) -> None:
        unfinished = [answer for answer in self.answers if not answer.finished]
        for answer in unfinished:
            answer.renew(iteration, budget)
        self._pool.submit(build_works(unfinished))

    async def whole(self, **repetition: int) -> list[Trajectory]:
        """All answers, each given in one go."""
        self.ask(**repetition)
        await self.settle()
        assert {len(answer.trajectory.segments) for answer in self.answers} == {1}
        return [answer.trajectory for answer in self.answers]

    async def abort(self, after_tokens: float) -> None:
        """Pause the engine as soon as it has generated so many more tokens: it gives back what it has."""
        wanted = await self._count_generated() + after_tokens
        async with asyncio.timeout(60):
            while (  # noqa: ASYNC110 - the count is in another process
                any(not answer.settled for answer in self.answers) and await self._count_generated() < wanted
            ):
                await asyncio.sleep(0.01)
        await self.post("/pause?mode=abort")

    async def become_version(self, version: int) -> None:
        """The same weights under another name."""
        await self.post("/update_weight_version", new_version=str(version))
        await self.post("/resume")

    async def post(self, path: str, **body: str) -> None:
        async with httpx.AsyncClient(headers=HEADERS, timeout=60) as http:
            (await http.post(self._url + path, json=body)).raise_for_status()

    async def _count_generated(self) -> float:
        async with httpx.AsyncClient(headers=HEADERS, timeout=60) as http:
            lines = (await http.get(f"{self._url}/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:generation_tokens_total"))

    def _settle(self, _: Answer) -> None:
        self._settled.set()


@asynccontextmanager
async def start_bench(store: Store, keys: JobKeys, url: str) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(EngineClient(TOKEN, request_timeout_seconds=120))
        members = await stack.enter_async_context(Mirror(store, keys.members, Member))
        status = EngineStatus(url=url, state=EngineState.SERVING, version=0)
        member = new_member(Role.SIDECAR, "a", "a", engine=status)
        await stack.enter_async_context(Membership(store, keys, member))
        pool = AnswerPool(client, members)
        pool.use_engines(ALL_ENGINES)
        bench = Bench(pool, url)
        try:
            yield bench
        finally:
            bench.running.cancel()
            await asyncio.wait([bench.running])


def assert_same(cut: list[Answer], whole: list[Trajectory]) -> None:
    for answer, trajectory in zip(cut, whole, strict=True):
        assert answer.trajectory.tokens.tolist() == trajectory.tokens.tolist()
        assert answer.trajectory.finish_reason is trajectory.finish_reason
        np.testing.assert_allclose(answer.trajectory.logprobs, trajectory.logprobs, atol=1e-4)


async def test_answers_cut_twice_by_their_budget_are_the_uncut_ones(engine: str, store: Store, keys: JobKeys) -> None:
    async with start_bench(store, keys, engine) as bench:
        whole = await bench.whole()
        bench.ask(budget=70)
        await bench.settle()
        for iteration in (2, 3):
            await bench.become_version(iteration - 1)
            bench.go_on(iteration, 70 if iteration == 2 else LENGTH)
            await bench.settle()
        assert_same(bench.answers, whole)
        longest = max((answer.trajectory for answer in bench.answers), key=lambda each: each.length)
        assert longest.length == LENGTH
        assert longest.versions.tolist() == [0] * 70 + [1] * 70 + [2] * (LENGTH - 140)
        assert [segment.iteration for segment in longest.segments] == [1, 2, 3]


async def test_answers_aborted_twice_are_the_uncut_ones(engine: str, store: Store, keys: JobKeys) -> None:
    aborted_twice = [FinishReason.ABORTED, FinishReason.ABORTED, FinishReason.LENGTH]
    async with start_bench(store, keys, engine) as bench:
        whole = await bench.whole()
        for _ in range(10):  # on a busy machine the engine may have ended before it is told to abort
            bench.ask()
            for version in (5, 6):
                await bench.abort(after_tokens=3 * len(PROMPTS))
                await bench.become_version(version)
            await bench.settle()
            assert_same(bench.answers, whole)
            longest = max((answer.trajectory for answer in bench.answers), key=lambda each: each.length)
            if [segment.finish_reason for segment in longest.segments] == aborted_twice:
                break
        assert [segment.finish_reason for segment in longest.segments] == aborted_twice
        assert longest.versions.tolist() == sorted(longest.versions.tolist())
        assert set(longest.versions.tolist()) >= {5, 6}


async def test_a_cut_answer_goes_in_circles_at_the_same_token(engine: str, store: Store, keys: JobKeys) -> None:
    async with start_bench(store, keys, engine) as bench:
        whole = await bench.whole(max_pattern_tokens=12, repeats=3)
        assert FinishReason.REPETITION in {trajectory.finish_reason for trajectory in whole}
        bench.ask(budget=7, max_pattern_tokens=12, repeats=3)
        await bench.settle()
        for iteration in range(2, LENGTH // 7 + 3):
            bench.go_on(iteration, 7)
            await bench.settle()
        assert_same(bench.answers, whole)
