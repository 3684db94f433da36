"""Makes test cases for `tandem data testcases`: a sandbox, perhaps a model, and progress for people."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tandem_core.errors import TandemError
from tandem_core.sandbox.client import SandboxClient
from tandem_rollout.rewards.own_sandbox import TOKEN_VARIABLE, OwnSandbox
from tandem_sandbox.runs import Runs
from tandem_sandbox.testcases.author import Author
from tandem_sandbox.testcases.decision import Decision
from tandem_sandbox.testcases.model import ChatModel
from tandem_sandbox.testcases.problems import Problem, check_generators, load_problems
from tandem_sandbox.testcases.report import Report, describe_drop
from tandem_sandbox.testcases.rules import Rules
from tandem_sandbox.testcases.session import Session
from tandem_sandbox.testcases.work import Workshop

_STOPPED = 130


@dataclass(frozen=True, slots=True)
class Authorship:
    """A model that writes generators."""

    url: str
    model: str
    key: str | None
    attempts: int
    """Programs that it may write for a problem."""


@dataclass(frozen=True, slots=True)
class CaseRequest:
    """What the command was given."""

    problems: Path
    output: Path
    language: str
    rules: Rules
    authorship: Authorship | None
    sandbox_url: str | None
    """None: a sandbox of our own."""
    at_a_time: int
    """Runs that the sandbox is asked for at a time."""


def run_request(request: CaseRequest, console: Console) -> int:
    """Make test cases and tell what became of all; returns the exit code: 0 done, 1 nothing is kept, 130 stopped.

    Raises TandemError.
    """
    problems = load_problems(request.problems, request.language)
    if request.authorship is None:
        check_generators(problems)
    try:
        report = asyncio.run(_make(request, problems, console))
    except OSError as error:
        raise TandemError(f"cannot write {request.output} and its work: {error}") from error
    except KeyboardInterrupt:
        console.print("stopped: what is done is kept, and the same command goes on")
        return _STOPPED
    for line in report.count_lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{request.output}; what became of each is in {request.output}.work/report.json",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0 if report.kept else 1


async def _make(request: CaseRequest, problems: Sequence[Problem], console: Console) -> Report:
    rules = request.rules
    async with _connect(request.sandbox_url) as client:
        runs = Runs(client, request.at_a_time)
        if (given := request.authorship) is None:
            return await _work(request, problems, Workshop(rules, runs, None), "", console)
        async with ChatModel(given.url, given.model, given.key) as model:
            author = Author(model, runs, rules, given.attempts)
            return await _work(request, problems, Workshop(rules, runs, author), author.identity, console)


async def _work(
    request: CaseRequest, problems: Sequence[Problem], workshop: Workshop, author: str, console: Console
) -> Report:
    identities = [problem.identify(request.rules, author) for problem in problems]
    columns = (TextColumn("problems"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("problems", total=len(problems))

        def tell(problem: Problem, decision: Decision) -> None:
            console.print(describe(problem, decision, request.rules), markup=False, highlight=False, soft_wrap=True)
            progress.advance(bar)

        return await Session(problems, request.output, identities).make_all(workshop, tell)


def describe(problem: Problem, decision: Decision, rules: Rules) -> str:
    """A line about a problem that is done."""
    if decision.drop is None:
        return f"{problem.name}: kept, {len(decision.cases)} of {rules.cases} cases"
    return f"{problem.name}: dropped, {describe_drop(decision).splitlines()[0]}"


@asynccontextmanager
async def _connect(url: str | None) -> AsyncIterator[SandboxClient]:
    """The sandbox at this address, or one of our own. Raises TandemError."""
    if url is not None:
        token = os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise TandemError(f"{TOKEN_VARIABLE} is not set: it is the bearer token of the sandbox {url}")
        async with SandboxClient(url, token) as client:
            yield client
        return
    own = OwnSandbox()
    try:
        await own.start()
        async with own.connect() as client:
            yield client
    finally:
        await own.stop()
