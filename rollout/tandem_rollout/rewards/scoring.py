"""Scores many answers at once with all scorers of a job."""

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import structlog
from tandem_core.job import RLJobSpec
from tandem_core.job.rewards import CodeReward, ExactReward, FunctionReward, HttpReward, Reward

from tandem_rollout.metrics import SCORING_FAILURES, SCORING_SECONDS
from tandem_rollout.prompts import Prompt
from tandem_rollout.rewards.answers import AnsweredPrompt, RewardError, describe_failure
from tandem_rollout.rewards.code import CodeScorer
from tandem_rollout.rewards.exact import ExactScorer
from tandem_rollout.rewards.http import HttpScorer
from tandem_rollout.rewards.local import needs_process, scorer_name, wrong_when_failing
from tandem_rollout.rewards.own_sandbox import OwnSandbox, connect_sandbox
from tandem_rollout.rewards.pool import Failure, Outcome, WorkerPool
from tandem_rollout.trajectory import FinishReason, Score

_FAILURES_TO_JUDGE_BY = 16
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be scored."""

    prompt: Prompt
    text: str
    """The model's answer, special tokens left out."""
    finish_reason: FinishReason


class Scoring:
    """All scorers of a job: `async with Scoring(spec) as scoring`.

    Entering it starts a process for scorers that may hang, and raises RewardError if one cannot be had. What fails:

    - math and reasoning-gym: an answer that makes them raise, hang or use up memory counts as wrong; it is logged and
      counted in `failures`. If they fail more often than not, the job is stopped instead.
    - code: an answer that the sandbox itself fails at has no score; it is logged and counted in `dropped`. If that
      happens more often than not, the job is stopped instead.
    - function, regex, http: raises RewardError, after a second attempt (http: a fourth). The user's own code is never
      quietly worth 0.
    """

    def __init__(self, spec: RLJobSpec) -> None:
        self._spec = spec.rewards
        self._pool = WorkerPool(spec) if any(map(needs_process, spec.rewards.scorers)) else None
        self._http = {
            scorer_name(reward): HttpScorer(reward, spec.rewards.timeout_seconds)
            for reward in spec.rewards.scorers
            if isinstance(reward, HttpReward)
        }
        self._code: dict[str, CodeScorer] = {}
        self._sandbox: OwnSandbox | None = None
        self._failures: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._scored: Counter[str] = Counter()
        for reward in spec.rewards.scorers:
            SCORING_FAILURES.labels(scorer_name(reward))  # 0, not absent

    async def __aenter__(self) -> Self:
        """Start the first scoring process, and the sandbox if the job has none of its own."""
        if self._pool is not None:
            await self._pool.start()
        code = [reward for reward in self._spec.scorers if isinstance(reward, CodeReward)]
        if any(reward.sandbox_url is None for reward in code):
            self._sandbox = OwnSandbox()
            await self._sandbox.start()
        self._code = {
            scorer_name(reward): CodeScorer(reward, connect_sandbox(reward, self._sandbox)) for reward in code
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End processes and connections."""
        if self._pool is not None:
            await self._pool.close()
        closing: list[HttpScorer | CodeScorer] = [*self._http.values(), *self._code.values()]
        for scorer in closing:
            await scorer.close()
        if self._sandbox is not None:
            await self._sandbox.stop()

    @property
    def failures(self) -> Mapping[str, int]:
        """Scorer -> answers that it could not cope with so far, counted as wrong."""
        return dict(self._failures)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Scorer -> answers that it could not be asked about so far, neither right nor wrong."""
        return dict(self._dropped)

    async def score(self, answers: Sequence[Answer]) -> list[Score | None]:
        """One score for each answer, in order; None where nothing is known. Calls may overlap. Raises RewardError."""
        answered = [
            AnsweredPrompt(each.prompt.id, each.prompt.text, each.text, each.prompt.answer, each.prompt.row)
            for each in answers
        ]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    scorer_name(reward): group.create_task(self._score_measured(reward, answered))
                    for reward in self._spec.scorers
                }
        except* RewardError as errors:
            raise _first(errors) from None
        results = {name: task.result() for name, task in tasks.items()}
        return [
            self._combine({name: result[index] for name, result in results.items()}, each.finish_reason)
            for index, each in enumerate(answers)
        ]

    def _combine(self, found: Mapping[str, float | None], finish_reason: FinishReason) -> Score | None:
        parts = {name: part for name, part in found.items() if part is not None}
        if len(parts) < len(found):
            return None
        reward = sum(scorer.weight * parts[scorer_name(scorer)] for scorer in self._spec.scorers)
        if finish_reason == FinishReason.REPETITION:
            reward -= self._spec.repetition_penalty
        return Score(reward, parts, reward >= self._spec.correct_at)

    async def _score_measured(self, reward: Reward, answered: Sequence[AnsweredPrompt]) -> Sequence[float | None]:
        with SCORING_SECONDS.labels(scorer_name(reward)).time():
            return await self._score_with(reward, answered)

    async def _score_with(self, reward: Reward, answered: Sequence[AnsweredPrompt]) -> Sequence[float | None]:
        name = scorer_name(reward)
        judge = partial(self._checked, reward)
        self._scored[name] += len(answered)
        if needs_process(reward) and self._pool is not None:
            return await self._pool.score(name, answered, judge)
        if isinstance(reward, CodeReward):
            found = await self._code[name].score(answered)
            self._count_dropped(name, found.count(None))
            return found
        outcomes: Sequence[Outcome]
        if isinstance(reward, ExactReward):
            exact = ExactScorer(reward)
            outcomes = [exact.score(each) for each in answered]
        elif isinstance(reward, HttpReward):
            outcomes = await self._http[name].score(answered)
        else:
            raise RewardError(f"scorer {name} has no process to run in")
        return [judge(each, outcome) for each, outcome in zip(answered, outcomes, strict=True)]

    def _checked(self, reward: Reward, answered: AnsweredPrompt, outcome: Outcome) -> float:
        """The score, or 0 for an answer that a library cannot cope with. Raises RewardError."""
        name = scorer_name(reward)
        if isinstance(reward, FunctionReward):
            name += f" ({reward.function})"
        if isinstance(outcome, Failure):
            problem = describe_failure(name, answered, outcome.reason)
            if outcome.reference or not wrong_when_failing(reward):
                remedy = "mend or remove the row" if outcome.reference else "mend the scorer"
                raise RewardError(f"{problem}; {remedy}")
            self._count_failure(name, problem)
            return 0.0
        if not math.isfinite(outcome) or not 0 <= outcome <= 1:
            problem = describe_failure(name, answered, f"it returned {outcome}")
            raise RewardError(f"{problem}; a scorer must return a number between 0 and 1, weight scales it")
        return outcome

    def _count_dropped(self, name: str, count: int) -> None:
        if not count:
            return
        self._dropped[name] += count
        SCORING_FAILURES.labels(name).inc(count)
        _log.warning("answers are dropped: the sandbox failed at them", scorer=name, count=count)
        if self._dropped[name] >= _FAILURES_TO_JUDGE_BY and 2 * self._dropped[name] > self._scored[name]:
            raise RewardError(
                f"the sandbox failed at {self._dropped[name]} of {self._scored[name]} answers of scorer {name}: "
                "look at its log"
            )

    def _count_failure(self, name: str, problem: str) -> None:
        self._failures[name] += 1
        SCORING_FAILURES.labels(name).inc()
        _log.warning("answer counts as wrong", scorer=name, why=problem, failures=self._failures[name])
        if self._failures[name] >= _FAILURES_TO_JUDGE_BY and 2 * self._failures[name] > self._scored[name]:
            raise RewardError(f"{problem}; so did {self._failures[name]} of {self._scored[name]} answers: it is broken")


def _first(errors: BaseExceptionGroup[RewardError]) -> RewardError:
    """One of the errors in a group, however deep."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, RewardError):
        raise error
    return error
