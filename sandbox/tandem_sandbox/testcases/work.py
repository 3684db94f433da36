"""The work for one problem: its inputs, then the votes of its references. Goes on where its journal ends."""

from tandem_core.sandbox.messages import Limits, RunRequest, Verdict

from tandem_sandbox.runs import Runs, run_together
from tandem_sandbox.testcases.agreement import CHECKERS, find_agreed
from tandem_sandbox.testcases.author import Author, SandboxFailed
from tandem_sandbox.testcases.decision import Decision, Drop, decide, find_distinct
from tandem_sandbox.testcases.generation import build_generation, read_generation
from tandem_sandbox.testcases.journal import Journal, Voted
from tandem_sandbox.testcases.problems import Problem
from tandem_sandbox.testcases.rules import Rules


class Workshop:
    """Makes test cases, with a sandbox and perhaps a model."""

    def __init__(self, rules: Rules, runs: Runs, author: Author | None) -> None:
        self._rules = rules
        self._runs = runs
        self._author = author

    async def make(self, problem: Problem, journal: Journal) -> Decision:
        """Do what the journal lacks, and decide. Raises TandemError if sandbox or model cannot be used."""
        rules = self._rules
        if len(problem.references) < rules.references:
            return Decision(Drop.REFERENCES, f"{len(problem.references)}, {rules.references} are needed")
        try:
            code = await self._find_generator(problem, journal)
        except SandboxFailed as error:
            return Decision(Drop.SANDBOX, str(error))
        if code is None:
            return Decision(Drop.GENERATOR, journal.written.detail if journal.written is not None else "")
        await run_together(
            self._make_input(code, number, journal)
            for number in range(1, rules.cases + 1)
            if number not in journal.made
        )
        await run_together(
            self._vote(problem, number, stdin, journal)
            for number, stdin in find_distinct(journal.made).items()
            if number not in journal.voted
        )
        return decide(rules, journal.made, journal.voted)

    async def _find_generator(self, problem: Problem, journal: Journal) -> str | None:
        """The problem's own one, or the model's; None if the model's do not work."""
        if problem.generator is not None:
            return problem.generator
        if journal.written is None:
            if self._author is None:
                raise AssertionError(f"{problem.name} has no generator, and there is no model to write one")
            journal.add(await self._author.write(problem.statement))
        return journal.written.code if journal.written is not None else None

    async def _make_input(self, code: str, number: int, journal: Journal) -> None:
        result = await self._runs.run(build_generation(code, self._rules, number))
        if result.verdict != Verdict.IE:
            journal.add(read_generation(number, result))

    async def _vote(self, problem: Problem, number: int, stdin: str, journal: Journal) -> None:
        rules = self._rules
        limits = Limits(cpu_seconds=rules.cpu_seconds, memory_bytes=rules.memory_bytes)
        results = await run_together(
            self._runs.run(RunRequest(source=source, stdin=stdin, limits=limits))
            for source in problem.references[: rules.references]
        )
        verdicts = tuple(result.verdict for result in results)
        if Verdict.IE in verdicts:
            return  # nobody knows what that reference would have said
        outputs = [result.stdout if result.verdict == Verdict.OK else None for result in results]
        expected, agreeing = find_agreed(CHECKERS[rules.checker], outputs)
        journal.add(Voted(number=number, expected=expected, agreeing=agreeing, verdicts=verdicts))
