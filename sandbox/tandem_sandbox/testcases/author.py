"""A model that writes generators: its program is tried in the sandbox, and shown its own errors a few times."""

import hashlib
import re
from importlib.resources import files
from string import Template

from tandem_core.sandbox.messages import Verdict

from tandem_sandbox.runs import Runs
from tandem_sandbox.testcases.generation import build_generation, read_generation
from tandem_sandbox.testcases.journal import Written
from tandem_sandbox.testcases.model import ChatModel
from tandem_sandbox.testcases.rules import Rules

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


class SandboxFailed(Exception):
    """The sandbox failed at a try: nothing is known of the program."""


class Author:
    """Writes generators with a model."""

    def __init__(self, model: ChatModel, runs: Runs, rules: Rules, attempts: int) -> None:
        prompts = files("tandem_sandbox.testcases") / "prompts"
        self._first = Template((prompts / "generator.txt").read_text())
        self._again = Template((prompts / "repair.txt").read_text())
        self._model = model
        self._runs = runs
        self._rules = rules
        self._attempts = attempts

    @property
    def identity(self) -> str:
        """What its programs depend on."""
        prompts = hashlib.sha256((self._first.template + self._again.template).encode()).hexdigest()
        return f"{self._model.name} {self._attempts} {prompts}"

    async def write(self, statement: str) -> Written:
        """A generator that works for the first, the middle and the last case; no code if there was none in all
        attempts. Raises TandemError; SandboxFailed, after which another try is worth it."""
        messages = [("user", self._first.substitute(statement=statement, cases=self._rules.cases))]
        problem = ""
        for _ in range(self._attempts):
            answer = await self._model.answer(messages)
            code = read_code(answer)
            problem = await self._find_problem(code)
            if not problem:
                return Written(code=code)
            messages += [("assistant", answer), ("user", self._again.substitute(problem=problem))]
        return Written(code=None, detail=problem)

    async def _find_problem(self, code: str) -> str:
        """What is wrong with the program, for the model to read; empty if nothing is."""
        if not code.strip():
            return "The answer holds no program."
        last = self._rules.cases
        inputs = []
        for number in dict.fromkeys((1, (1 + last) // 2, last)):
            result = await self._runs.run(build_generation(code, self._rules, number))
            if result.verdict == Verdict.IE:
                raise SandboxFailed(result.detail)
            made = read_generation(number, result)
            if made.stdin is None:
                return f"For case {number} of {last} the program failed.\n{made.detail}"
            inputs.append(made.stdin)
        if len(inputs) > 1 and len(set(inputs)) == 1:
            return f"It makes the same input for different cases:\n{inputs[0][:500]}"
        return ""


def read_code(answer: str) -> str:
    """The last block between fences; without any, the whole answer."""
    fenced = _FENCE.findall(answer)
    code: str = fenced[-1] if fenced else answer
    # What a model writes may hold halves of characters, which no file can.
    return code.encode(errors="replace").decode()
