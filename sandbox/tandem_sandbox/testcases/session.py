"""Makes test cases for all problems of a file. Killed at any moment, it goes on when it is started again."""

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tandem_core.errors import TandemError

from tandem_sandbox.runs import run_together
from tandem_sandbox.testcases.decision import Decision
from tandem_sandbox.testcases.journal import Journal
from tandem_sandbox.testcases.problems import Problem
from tandem_sandbox.testcases.report import Report
from tandem_sandbox.testcases.work import Workshop

_PROBLEMS_AT_A_TIME = 4


class Session:
    """Where a file's work is kept: OUT.work beside the result OUT, with a journal for each problem."""

    def __init__(self, problems: Sequence[Problem], out: Path, identities: Sequence[str]) -> None:
        self._problems = problems
        self._out = out
        self._identities = identities
        self.folder = out.with_name(out.name + ".work")

    async def make_all(self, workshop: Workshop, tell: Callable[[Problem, Decision], None]) -> Report:
        """Do all problems, each told as it is done, and write the result. Raises TandemError, OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            slots = asyncio.Semaphore(_PROBLEMS_AT_A_TIME)
            # Rows that say the same share one journal, and are done once.
            locks = {identity: asyncio.Lock() for identity in self._identities}

            async def make(problem: Problem, identity: str) -> Decision:
                async with locks[identity], slots:
                    decision = await workshop.make(problem, self._open_journal(identity))
                tell(problem, decision)
                return decision

            decisions = await run_together(map(make, self._problems, self._identities))
            report = Report([(each.name, decision) for each, decision in zip(self._problems, decisions, strict=True)])
            self._write_result(decisions)
            _replace(self.folder / "report.json", [report.to_json()])
        return report

    def _open_journal(self, identity: str) -> Journal:
        return Journal(self.folder / f"{identity}.jsonl")

    def _write_result(self, decisions: Sequence[Decision]) -> None:
        rows = (
            json.dumps(build_row(problem, decision, self._open_journal(identity))) + "\n"
            for problem, identity, decision in zip(self._problems, self._identities, decisions, strict=True)
            if decision.drop is None
        )
        _replace(self._out, rows)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TandemError(f"another command works on {self._out}: wait for it, or name another file") from None
            yield


def build_row(problem: Problem, decision: Decision, journal: Journal) -> Mapping[str, object]:
    """The row that the reward `code` reads: the problem's own columns without references and generator; `tests`; and,
    where it has no `answer`, the first reference that passes."""
    row = {name: value for name, value in problem.row.items() if name not in ("references", "generator")}
    row.setdefault("answer", problem.references[decision.passing[0]].code)
    row["tests"] = [
        {"stdin": journal.made[number].stdin, "expected": journal.voted[number].expected} for number in decision.cases
    ]
    return row


def _replace(file: Path, texts: Iterator[str] | Sequence[str]) -> None:
    """Whole or not at all."""
    new = file.with_name(f".{file.name}.new")
    with new.open("w") as stream:
        for text in texts:
            stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
