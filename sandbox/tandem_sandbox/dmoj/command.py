"""`tandem-sandbox judge`: judges a program by a DMOJ problem, and tells what a user of DMOJ expects."""

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from tandem_core.errors import TandemError
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.messages import MEBIBYTE, Source

from tandem_sandbox.dmoj.asking import CaseJudge, CompilationFailed, Submission
from tandem_sandbox.dmoj.problem import Problem, load_problem
from tandem_sandbox.dmoj.scoring import Code, Line, grade, sum_points, sum_up
from tandem_sandbox.dmoj.source_names import find_language
from tandem_sandbox.languages import LANGUAGES
from tandem_sandbox.runs import Runs
from tandem_sandbox.settings import Settings

_TOKEN_VARIABLE = "TANDEM_SANDBOX_TOKEN"  # noqa: S105 - the name of a variable
_URL = f"http://127.0.0.1:{Settings.model_fields['port'].default}"
_PATIENCE_SECONDS = 3.0
_ACCEPTED, _REJECTED = 0, 1
_DESCRIPTION = """\
Judge a program by a problem in the format of DMOJ: a folder with init.yml and its test data, perhaps in a zip archive.
A sandbox must run: `python -m tandem_sandbox`.

Batches, dependencies, pretests and all checkers that are part of DMOJ are known, `bridged` ones of type default and
testlib too. Interactive problems, and those with generators or Python modules of their own, are refused."""
_EXAMPLES = """\
examples:
  tandem-sandbox judge problems/aplusb solution.cpp
  tandem-sandbox judge problems/aplusb solution.py --time-limit 1 --memory-limit 64

exit codes: 0 accepted, 1 not accepted, 2 it could not be judged"""


def add_judge(things: Any) -> None:
    """Add the command to what argparse calls subparsers."""
    parser = things.add_parser(
        "judge",
        help="judge a program by a DMOJ problem",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("problem", type=Path, help="folder with init.yml")
    parser.add_argument("program", type=Path, help="source file")
    parser.add_argument("--language", choices=sorted(LANGUAGES), help="left out: as the file's ending says")
    parser.add_argument("--time-limit", type=float, default=2.0, help="processor time of a case in seconds (2)")
    parser.add_argument("--memory-limit", type=int, default=256, help="memory of a case in MiB (256)")
    parser.add_argument("--short-circuit", action="store_true", help="stop at the first case that fails")
    parser.add_argument("--url", default=_URL, help=f"address of the sandbox ({_URL})")


def run_judge(given: argparse.Namespace) -> int:
    """Judge, and print; returns the exit code. Raises TandemError."""
    problem = load_problem(given.problem)
    try:
        code = given.program.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TandemError(f"cannot read the program {given.program}: {error}") from error
    if not 0 < given.time_limit <= 3600 or given.memory_limit < 4:
        raise TandemError("--time-limit must be above 0 and at most 3600 seconds, --memory-limit at least 4 MiB")
    submission = Submission(
        source=Source(language=given.language or find_language(given.program.name), code=code),
        time_seconds=given.time_limit,
        memory_bytes=given.memory_limit * MEBIBYTE,
    )
    return asyncio.run(
        _judge(problem, submission, given.url, _read_token(given.home), short_circuit=given.short_circuit)
    )


async def _judge(problem: Problem, submission: Submission, url: str, token: str, *, short_circuit: bool) -> int:
    lines: list[Line] = []
    async with SandboxClient(url, token, patience_seconds=_PATIENCE_SECONDS) as client:
        judge = CaseJudge(Runs(client, 1), problem.files, submission)
        try:
            async for line in grade(problem, judge.judge, short_circuit=short_circuit):
                if line.batch is not None and (not lines or lines[-1].batch != line.batch):
                    print(f"Batch #{line.batch}")
                print(describe_line(line), flush=True)
                lines.append(line)
        except CompilationFailed as error:
            print(f"{error}\nResult: CE, 0 points")
            return _REJECTED
    score, verdict = sum_points(lines), sum_up(lines)
    print(f"Result: {verdict}, {score.points:g}/{score.total:g} points")
    return _ACCEPTED if verdict is Code.AC else _REJECTED


def describe_line(line: Line) -> str:
    """A test case as DMOJ's judge tells it."""
    graded = line.graded
    padding = "  " if line.batch is not None else ""
    start = f"{padding}Test case {line.case.number:2}"
    if graded.code is Code.SC:
        return f"{start} --"
    used = f"[{graded.cpu_seconds:.3f}s | {graded.memory_bytes // 1024}kb]"
    feedback = f" ({graded.feedback.splitlines()[0]})" if graded.feedback.strip() else ""
    return f"{start} {graded.code:<3} {used} {graded.points:g}/{line.case.points:g}{feedback}"


def _read_token(home: Path) -> str:
    token = os.environ.get(_TOKEN_VARIABLE)
    if token:
        return token
    try:
        return (home / "token").read_text().strip()
    except OSError as error:
        raise TandemError(
            f"no token of a sandbox: {error}. Start one with `python -m tandem_sandbox`, say its --home, or set "
            f"{_TOKEN_VARIABLE}"
        ) from error
