"""Judges programs by test cases: each is compiled once, each case runs in a container of its own."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence

from tandem_core.sandbox.judging import Case, CaseResult, JudgeRequest, JudgeResult, ProgramChecker, ProgramResult
from tandem_core.sandbox.messages import Source, Verdict

from tandem_sandbox.checkers import find_difference
from tandem_sandbox.job import ContainerError, Job, JobFile, Outcome
from tandem_sandbox.pool import LanePool
from tandem_sandbox.programs import CompileError, Program, Programs, with_input
from tandem_sandbox.verdicts import verdict_of

_SHOWN_BYTES = 4096
_RIGHT, _WRONG = 0, (1, 2)


class Judge:
    """Judges with a pool's containers."""

    def __init__(self, pool: LanePool, programs: Programs, at_a_time: int) -> None:
        self._pool = pool
        self._programs = programs
        self._at_a_time = at_a_time

    async def judge(self, request: JudgeRequest) -> JudgeResult:
        """One result for each program. Raises UnknownLanguage; CompileError if the checker does not compile."""
        for source in request.programs:
            self._programs.find(source)
        checker = request.checker
        checking = await self._programs.get(checker.source) if isinstance(checker, ProgramChecker) else None
        # So many cases of one request at a time: others get their turn in between.
        slots = asyncio.Semaphore(self._at_a_time)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._judge_program(request, source, checking, slots)) for source in request.programs
            ]
        return JudgeResult(programs=tuple(task.result() for task in tasks))

    async def _judge_program(
        self, request: JudgeRequest, source: Source, checking: Program | None, slots: asyncio.Semaphore
    ) -> ProgramResult:
        try:
            async with slots:
                program = await self._programs.get(source)
        except CompileError as error:
            return ProgramResult(verdict=Verdict.CE, detail=str(error))
        except ContainerError as error:
            return ProgramResult(verdict=Verdict.IE, detail=str(error))
        job = program.build_job(request.limits)
        results = await judge_in_order(
            lambda index: self._judge_case(request, request.cases[index], program, job, checking, slots),
            len(request.cases),
            self._at_a_time if request.stop_early else len(request.cases),
            stop_early=request.stop_early,
        )
        return summarize(results)

    async def _judge_case(
        self,
        request: JudgeRequest,
        case: Case,
        program: Program,
        job: Job,
        checking: Program | None,
        slots: asyncio.Semaphore,
    ) -> CaseResult:
        try:
            async with slots:
                outcome = await self._pool.run(program.image, with_input(job, case.stdin.encode()))
            verdict, detail = verdict_of(outcome, request.limits)
            if verdict == Verdict.OK:
                verdict, detail = await self._check(request, case, outcome, checking, slots)
        except ContainerError as error:
            return CaseResult(verdict=Verdict.IE, detail=str(error))
        return CaseResult(
            verdict=verdict,
            detail=detail,
            cpu_seconds=outcome.cpu_seconds,
            wall_seconds=outcome.wall_seconds,
            memory_bytes=outcome.memory_bytes,
            stdout=outcome.stdout[:_SHOWN_BYTES].decode(errors="replace") if request.outputs else None,
        )

    async def _check(
        self,
        request: JudgeRequest,
        case: Case,
        outcome: Outcome,
        checking: Program | None,
        slots: asyncio.Semaphore,
    ) -> tuple[Verdict, str]:
        checker = request.checker
        if not isinstance(checker, ProgramChecker):
            difference = find_difference(checker, outcome.stdout, case.expected)
            return (Verdict.OK, "") if difference is None else (Verdict.WA, difference)
        if checking is None:
            raise ContainerError("the checker has not been compiled")
        job = checking.build_job(checker.limits)
        files = {"input": case.stdin.encode(), "output": outcome.stdout, "expected": case.expected.encode()}
        job = dataclasses.replace(
            job,
            command=(*job.command, *files),
            files={**job.files, **{name: JobFile(data) for name, data in files.items()}},
        )
        async with slots:
            said = await self._pool.run(checking.image, job)
        words = (said.stdout + said.stderr)[:_SHOWN_BYTES].decode(errors="replace").strip()
        if said.stop is None and said.exit_code == _RIGHT:
            return Verdict.OK, words
        if said.stop is None and said.exit_code in _WRONG:
            return Verdict.WA, words
        return Verdict.IE, f"the checker failed: {verdict_of(said, checker.limits)[1]} {words}"


async def judge_in_order(
    judge: Callable[[int], Awaitable[CaseResult]], count: int, at_a_time: int, *, stop_early: bool
) -> list[CaseResult]:
    """Results in order, `at_a_time` in work; with `stop_early` the first one that is not OK is the last."""
    results: list[CaseResult] = []
    for start in range(0, count, at_a_time):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_await(judge(index))) for index in range(start, min(start + at_a_time, count))]
        for task in tasks:
            results.append(task.result())
            if stop_early and results[-1].verdict != Verdict.OK:
                return results
    return results


async def _await(result: Awaitable[CaseResult]) -> CaseResult:
    return await result


def summarize(results: Sequence[CaseResult]) -> ProgramResult:
    """The program's verdict: that of its first failed case. What the sandbox failed at outweighs everything."""
    failed = [(number, each) for number, each in enumerate(results, start=1) if each.verdict != Verdict.OK]
    internal = [pair for pair in failed if pair[1].verdict == Verdict.IE]
    for number, result in (internal or failed)[:1]:
        return ProgramResult(verdict=result.verdict, detail=f"case {number}: {result.detail}", cases=tuple(results))
    return ProgramResult(verdict=Verdict.OK, cases=tuple(results))
