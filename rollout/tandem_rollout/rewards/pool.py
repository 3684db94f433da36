"""Processes that score, and that are ended when an answer takes too long."""

import asyncio
import json
import os
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import structlog
from tandem_core.job import RLJobSpec

from tandem_rollout.rewards.answers import AnsweredPrompt, RewardError
from tandem_rollout.rewards.worker import HEADER

_MAX_WORKERS = 8
_CHUNK = 32  # answers handed to a worker at a time
_PATIENCE_SECONDS = 0.5  # a chunk that waited this long gets a worker of its own
_START_SECONDS = 120.0  # a user's module may import large libraries
_END_SECONDS = 10.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an answer has no score."""

    reason: str
    reference: bool = False
    """Whether the reference answer is at fault."""


type Outcome = float | Failure
type Judge = Callable[[AnsweredPrompt, Outcome], float]
"""Turns an outcome into a score, or raises RewardError."""


class _WorkerLost(Exception):
    """The process ended or did not answer in time."""

    outcomes: Sequence[Outcome] = ()
    """What it gave before."""


class _Worker:
    """One process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, spec: RLJobSpec) -> Self:
        """Raises RewardError if the scorers cannot be had."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tandem_rollout.rewards.worker", stdin=PIPE, stdout=PIPE
        )
        worker = cls(process)
        try:
            await worker._send(spec)
            reply = await worker._receive(_START_SECONDS)
        except _WorkerLost as lost:
            await worker.end()
            raise RewardError(f"the scoring process did not start: {lost}; its own words are in the log") from lost
        except asyncio.CancelledError:
            await worker.end()
            raise
        if "failure" in reply:
            await worker.end()
            raise RewardError(reply["failure"])
        return worker

    async def score(self, scorer: str, answers: Sequence[AnsweredPrompt], timeout_seconds: float) -> list[Outcome]:
        """One outcome for each answer. Raises _WorkerLost, with the outcomes so far, where one is not there in time."""
        outcomes: list[Outcome] = []
        try:
            await self._send((scorer, list(answers)))
            for _ in answers:
                reply = await self._receive(timeout_seconds)
                outcomes.append(
                    float(reply["score"])
                    if "score" in reply
                    else Failure(reply["failure"], reply.get("reference", False))
                )
        except _WorkerLost as lost:
            lost.outcomes = outcomes
            raise
        return outcomes

    async def end(self) -> None:
        """End the process, whatever it is doing."""
        if self._process.returncode is None:
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        async with asyncio.timeout(_END_SECONDS):
            await self._process.wait()

    async def _send(self, content: Any) -> None:
        stdin = self._process.stdin
        if stdin is None:
            raise _WorkerLost("it has no input")
        frame = pickle.dumps(content)
        stdin.write(HEADER.pack(len(frame)) + frame)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await stdin.drain()
        except (ConnectionError, TimeoutError) as error:
            raise _WorkerLost(f"it takes no input: {error!r}") from error

    async def _receive(self, timeout_seconds: float) -> dict[str, Any]:
        if self._process.stdout is None:
            raise _WorkerLost("it has no output")
        try:
            async with asyncio.timeout(timeout_seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise _WorkerLost(f"no result after {timeout_seconds:g} s (rewards.timeoutSeconds)") from None
        if not line.endswith(b"\n"):
            async with asyncio.timeout(_END_SECONDS):
                code = await self._process.wait()
            raise _WorkerLost(f"the process ended with code {code}; out of memory?")
        reply: dict[str, Any] = json.loads(line)
        return reply


class WorkerPool:
    """Between one and eight processes; more are started as answers pile up."""

    def __init__(self, spec: RLJobSpec) -> None:
        self._spec = spec
        self._most = min(_MAX_WORKERS, os.cpu_count() or 1)
        self._idle: asyncio.Queue[_Worker] = asyncio.LifoQueue(maxsize=self._most)
        self._workers: set[_Worker] = set()
        self._starting = 0

    async def start(self) -> None:
        """Start the first process. Raises RewardError if the scorers cannot be had."""
        self._idle.put_nowait(await self._start_worker())

    async def close(self) -> None:
        """End all processes."""
        workers, self._workers = self._workers, set()
        for worker in workers:
            await worker.end()

    async def score(self, scorer: str, answers: Sequence[AnsweredPrompt], judge: Judge) -> list[float]:
        """What `judge` makes of each answer's outcome. One that hangs or ends its process twice is a Failure.

        An error of `judge` ends the scoring of all answers at once, in an exception group.
        """
        chunks = [answers[start : start + _CHUNK] for start in range(0, len(answers), _CHUNK)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._score_chunk(scorer, chunk, judge)) for chunk in chunks]
        return [score for task in tasks for score in task.result()]

    async def _score_chunk(self, scorer: str, answers: Sequence[AnsweredPrompt], judge: Judge) -> list[float]:
        scores: list[float] = []
        alone = False
        while len(scores) < len(answers):
            rest = answers[len(scores) :]
            try:
                outcomes = await self._score_on_worker(scorer, rest[:1] if alone else rest)
            except _WorkerLost as lost:
                _log.warning("scoring process lost", scorer=scorer, alone=alone, why=str(lost))
                outcomes = list(lost.outcomes)
                if alone:
                    outcomes.append(Failure(f"{lost}, twice"))
                # Which answer it was is only known once each is scored alone: replies come in bunches.
                alone = True
            scores += [judge(answer, outcome) for answer, outcome in zip(rest, outcomes, strict=False)]
        return scores

    async def _score_on_worker(self, scorer: str, answers: Sequence[AnsweredPrompt]) -> list[Outcome]:
        worker = await self._acquire()
        intact = False
        try:
            outcomes = await worker.score(scorer, answers, self._spec.rewards.timeout_seconds)
            intact = True
            return outcomes
        finally:
            if intact:
                self._idle.put_nowait(worker)
            else:  # it may still write the outcomes of these answers
                self._workers.discard(worker)
                await worker.end()

    async def _acquire(self) -> _Worker:
        while True:
            if not self._workers and not self._starting:
                return await self._start_worker()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    return await self._idle.get()
            except TimeoutError:
                if len(self._workers) + self._starting < self._most:
                    return await self._start_worker()

    async def _start_worker(self) -> _Worker:
        self._starting += 1
        try:
            worker = await _Worker.start(self._spec)
        finally:
            self._starting -= 1
        self._workers.add(worker)
        return worker
