"""Programs that the model wrote, judged by the code sandbox."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import TypeAdapter, ValidationError
from tandem_core.job.rewards import CodeReward
from tandem_core.sandbox.client import SandboxClient, SandboxError, SandboxUnavailable
from tandem_core.sandbox.judging import (
    Case,
    Checker,
    ExactChecker,
    FloatsChecker,
    JudgeRequest,
    ProgramResult,
    TokensChecker,
)
from tandem_core.sandbox.messages import Limits, Source, Verdict

from tandem_rollout.rewards.answers import AnsweredPrompt, RewardError, describe_failure

_ATTEMPTS = 3
_CONCURRENT_REQUESTS = 16
_MOST_PROGRAMS = 32
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_CASES = TypeAdapter(tuple[Case, ...])
_CHECKERS: Mapping[str, Checker] = {"exact": ExactChecker(), "tokens": TokensChecker(), "floats": FloatsChecker()}


class CodeScorer:
    """1 where the program passes all its test cases (or the share that it passes, with `partial`).

    What the sandbox itself fails at is tried again, and is then None: neither right nor wrong.
    """

    def __init__(self, reward: CodeReward, client: SandboxClient) -> None:
        self._reward = reward
        self._client = client
        self._slots = asyncio.Semaphore(_CONCURRENT_REQUESTS)
        environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
        try:
            self._template = environment.from_string(reward.program)
        except TemplateError as error:
            raise RewardError(
                f"program {reward.program!r} of a code reward is not a Jinja template: {error}"
            ) from error

    async def score(self, answered: Sequence[AnsweredPrompt]) -> list[float | None]:
        """One reward for each answer. Raises RewardError if the sandbox, the cases or the template cannot be used."""
        places: defaultdict[tuple[Case, ...], list[int]] = defaultdict(list)
        for place, each in enumerate(answered):
            places[self._read_cases(each)].append(place)
        rewards: list[float | None] = [None] * len(answered)
        try:
            async with asyncio.TaskGroup() as group:
                for cases, members in places.items():
                    for start in range(0, len(members), _MOST_PROGRAMS):
                        part = members[start : start + _MOST_PROGRAMS]
                        group.create_task(self._score_part(answered, cases, part, rewards))
        except* RewardError as errors:
            raise errors.exceptions[0] from None
        return rewards

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    async def _score_part(
        self,
        answered: Sequence[AnsweredPrompt],
        cases: tuple[Case, ...],
        places: list[int],
        rewards: list[float | None],
    ) -> None:
        for _ in range(_ATTEMPTS):
            results = await self._judge([self._build_source(answered[place]) for place in places], cases)
            for place, result in zip(places, results, strict=True):
                rewards[place] = self._reward_of(result, len(cases))
            places = [place for place in places if rewards[place] is None]
            if not places:
                return

    async def _judge(self, programs: Sequence[Source], cases: tuple[Case, ...]) -> Sequence[ProgramResult]:
        limits = Limits(cpu_seconds=self._reward.cpu_seconds, memory_bytes=self._reward.memory_bytes)
        request = JudgeRequest(
            programs=tuple(programs),
            cases=cases,
            checker=_CHECKERS[self._reward.checker],
            limits=limits,
            stop_early=not self._reward.partial,
        )
        try:
            async with self._slots:
                return (await self._client.judge(request)).programs
        except (SandboxError, SandboxUnavailable) as error:
            raise RewardError(f"code cannot be scored: {error}") from error

    def _reward_of(self, result: ProgramResult, cases: int) -> float | None:
        if result.verdict == Verdict.IE:
            return None
        return result.passed / cases if self._reward.partial else float(result.verdict == Verdict.OK)

    def _build_source(self, answered: AnsweredPrompt) -> Source:
        fenced = _FENCE.findall(answered.response)
        response = fenced[-1] if fenced else answered.response
        try:
            code = self._template.render({**answered.row, "response": response})
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise RewardError(describe_failure("code", answered, f"its template program failed: {error}")) from error
        # What a model writes may hold halves of characters, which no file can.
        return Source(language=self._reward.language, code=code.encode(errors="replace").decode())

    def _read_cases(self, answered: AnsweredPrompt) -> tuple[Case, ...]:
        field = self._reward.cases_field
        if field is None:
            return (Case(expected=answered.reference),)
        try:
            cases = _CASES.validate_python(answered.row[field])
        except (KeyError, ValidationError) as error:
            wanted = f"column {field} must hold a list of {{stdin, expected}}"
            raise RewardError(describe_failure("code", answered, f"{wanted}: {error!r}")) from error
        if not cases:
            raise RewardError(describe_failure("code", answered, f"column {field} holds no test case"))
        return cases
