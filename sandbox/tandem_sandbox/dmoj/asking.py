"""Judges a case of a DMOJ problem with the sandbox."""

from dataclasses import dataclass

from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import Limits, RunRequest, RunResult, Source, Verdict

from tandem_sandbox.dmoj.bridged import check_bridged
from tandem_sandbox.dmoj.checks import JUDGES_FAILED_RUNS, Checked, check
from tandem_sandbox.dmoj.data_files import DataFiles, normalize
from tandem_sandbox.dmoj.problem import Case
from tandem_sandbox.dmoj.scoring import Code, Graded
from tandem_sandbox.runs import Runs

_FIRST_SIGNAL = 128
_MOST_OUTPUT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Submission:
    """The program, and what the site allows it."""

    source: Source
    time_seconds: float
    memory_bytes: int


class CompilationFailed(Exception):
    """Says what the compiler says."""


class CaseJudge:
    """Judges cases of one problem and submission."""

    def __init__(self, runs: Runs, files: DataFiles, submission: Submission) -> None:
        self._runs = runs
        self._files = files
        self._submission = submission

    async def judge(self, case: Case) -> Graded:
        """What becomes of a case. Raises CompilationFailed; TandemError if the sandbox or the checker fails."""
        given = self._read(case, case.input)
        limits = Limits(
            cpu_seconds=self._submission.time_seconds,
            memory_bytes=self._submission.memory_bytes,
            output_bytes=min(case.output_bytes, _MOST_OUTPUT_BYTES),
        )
        stdin = _decode(given, case)
        result = await self._runs.run(RunRequest(source=self._submission.source, stdin=stdin, limits=limits))
        if result.verdict == Verdict.CE:
            raise CompilationFailed(result.stderr)
        if result.verdict == Verdict.IE:
            raise TandemError(f"the sandbox failed at test case {case.number}, three times: {result.detail}")
        failed = read_failure(result)
        if failed is None or case.checker.name in JUDGES_FAILED_RUNS:
            checked = await self._check(case, given, result.stdout.encode())
        else:
            checked = Checked(False, 0.0)
        return Graded(
            code=failed or (Code.AC if checked.passed else Code.WA),
            passed=checked.passed,
            points=checked.share * case.points,
            feedback=checked.feedback or (result.detail if failed else ""),
            cpu_seconds=result.cpu_seconds,
            memory_bytes=result.memory_bytes,
        )

    async def _check(self, case: Case, given: bytes, output: bytes) -> Checked:
        expected = self._read(case, case.output)
        if case.checker.name == "bridged":
            return await check_bridged(self._runs, self._files, case, given, output, expected)
        return check(case.checker.name, case.checker.arguments, output, expected)

    def _read(self, case: Case, name: str | None) -> bytes:
        return b"" if name is None else normalize(self._files.read(name), binary=case.binary)


def read_failure(result: RunResult) -> Code | None:
    """DMOJ's verdict on a run that went wrong; None if it went well. CE and IE are for others."""
    match result.verdict:
        case Verdict.TLE:
            return Code.TLE
        case Verdict.MLE:
            return Code.MLE
        case Verdict.OLE:
            return Code.OLE
        case Verdict.RE:
            return Code.RTE if (result.exit_code or 0) > _FIRST_SIGNAL else Code.IR
    return None


def _decode(data: bytes, case: Case) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TandemError(
            f"the input of test case {case.number} is not UTF-8, which is needed here: {error}"
        ) from error
