"""Answers in progress: what to ask an engine for, and what its reply means. Pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import xxhash
from tandem_core.job.rollout import RepetitionSpec, RolloutSpec

from tandem_rollout.engine_client import Generated, GenerateRequest
from tandem_rollout.repetition import goes_in_circles
from tandem_rollout.trajectory import FinishReason, Segment, Trajectory, TrajectoryState


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float
    top_p: float
    max_tokens: int
    """Longest answer, over all iterations."""
    repetition: RepetitionSpec
    seed: int
    """The job's."""


def build_sampling(spec: RolloutSpec, seed: int, *, greedy: bool = False) -> Sampling:
    """The job's sampling, or with `greedy` the most likely token each time."""
    return Sampling(
        temperature=0.0 if greedy else spec.temperature,
        top_p=1.0 if greedy else spec.top_p,
        max_tokens=spec.max_tokens,
        repetition=spec.repetition,
        seed=seed,
    )


@dataclass(slots=True, eq=False)
class Answer:
    """A trajectory that is being generated."""

    trajectory: Trajectory
    prompt: Sequence[int]
    sampling: Sampling
    iteration: int
    """The iteration whose budget it spends."""
    allowance: int
    """Tokens left of that budget."""
    on_settled: Callable[["Answer"], None] = field(repr=False)
    """Called when it is finished, or its budget is spent."""
    engine: str = ""
    """The engine that holds its prefix; empty: none."""
    flying: bool = False
    """Whether an engine works on it now."""

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be generated."""
        return self.trajectory.state != TrajectoryState.UNFINISHED

    @property
    def settled(self) -> bool:
        """Whether it is finished, or its budget is spent."""
        return self.finished or self.allowance <= 0

    def renew(self, iteration: int, allowance: int) -> None:
        """Give it the budget of another iteration."""
        self.iteration, self.allowance = iteration, allowance


def build_works(answers: Sequence[Answer]) -> list[list[Answer]]:
    """What to ask for together: answers of one group that have no tokens yet, and each other answer by itself."""
    works: dict[tuple[int, int], list[Answer]] = {}
    for answer in answers:
        trajectory = answer.trajectory
        alone = trajectory.index + 1 if trajectory.length else 0
        works.setdefault((trajectory.group_id, alone), []).append(answer)
    return list(works.values())


def build_request(answers: Sequence[Answer]) -> GenerateRequest:
    """One request for all of `answers`, which have the same prompt, allowance, and tokens so far.

    The seed is a function of the job's seed, prompt, group, answer, iteration and length, so that the same job samples
    the same way again.
    """
    first = answers[0]
    trajectory, sampling = first.trajectory, first.sampling
    place = (sampling.seed, trajectory.prompt_id, trajectory.group_id, trajectory.index, first.iteration)
    seed = xxhash.xxh3_64_intdigest(repr((*place, trajectory.length)).encode()) >> 2  # vLLM adds to it; 63 bits at most
    return GenerateRequest(
        prompt=[*first.prompt, *trajectory.tokens.tolist()],
        count=len(answers),
        max_tokens=min(first.allowance, sampling.max_tokens - trajectory.length),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed,
        repetition=sampling.repetition,
    )


def apply_generated(answer: Answer, generated: Generated, *, iteration: int, engine: str) -> None:
    """Append what `engine` generated during `iteration` to the answer, and take it off its allowance.

    LENGTH becomes BUDGET where only the iteration's budget is spent; an unfinished answer that goes in circles across
    the borders of its segments becomes REPETITION. An abort before the first token leaves the answer as it was.
    """
    trajectory, count = answer.trajectory, len(generated.tokens)
    answer.engine = engine
    answer.allowance -= count
    reason = generated.finish_reason
    if reason is FinishReason.ABORTED and not count:
        return
    if not (reason is FinishReason.STOP or reason is FinishReason.REPETITION):
        if trajectory.length + count >= answer.sampling.max_tokens:
            reason = FinishReason.LENGTH
        elif goes_in_circles([*trajectory.tokens, *generated.tokens], answer.sampling.repetition):
            reason = FinishReason.REPETITION
        elif reason is FinishReason.LENGTH:
            reason = FinishReason.BUDGET
    trajectory.append(
        Segment(
            tokens=generated.tokens,
            logprobs=generated.logprobs,
            versions=generated.versions,
            finish_reason=reason,
            iteration=iteration,
        )
    )


def outstanding_tokens(answers: Sequence[Answer], expected_length: float) -> float:
    """Tokens still to be generated in this iteration, if answers become `expected_length` tokens long on average.

    An answer that is that long already counts half as many again.
    """
    total = 0.0
    for answer in answers:
        length = answer.trajectory.length
        rest = expected_length - length if length < expected_length else length / 2
        total += min(rest, answer.sampling.max_tokens - length, answer.allowance)
    return total
