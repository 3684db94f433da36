"""Answers in progress: what to ask an engine for, and what its reply means. Pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import xxhash
from tandem_core.job.rollout import RepetitionSpec, RolloutSpec

from tandem_rollout.engine_client import Generated, GenerateRequest
from tandem_rollout.repetition import end_of_circles
from tandem_rollout.trajectory import FinishReason, Segment, Trajectory, TrajectoryState, first_versions


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
    max_staleness: int = 0
    """How many versions before the iteration's own (iteration - 1) may work on it."""
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

    @property
    def oldest_version(self) -> int:
        """The oldest weights that may work on it."""
        return self.iteration - 1 - self.max_staleness

    def renew(self, iteration: int, budget: int) -> None:
        """Give it what is left of an iteration's budget: a resumed iteration has spent some of it."""
        self.iteration, self.allowance = iteration, budget - self.trajectory.generated_in(iteration)


def build_works(answers: Sequence[Answer]) -> list[list[Answer]]:
    """What to ask for together: neighbours in a group that have no tokens yet, and each other answer by itself.

    vLLM samples the i-th answer of a request with seed + i, and takes no request for several greedy answers.
    """
    works: list[list[Answer]] = []
    for answer in answers:
        if works and _follows(works[-1][-1], answer):
            works[-1].append(answer)
        else:
            works.append([answer])
    return works


def _follows(before: Answer, answer: Answer) -> bool:
    first, second = before.trajectory, answer.trajectory
    neighbours = first.group_id == second.group_id and first.index + 1 == second.index
    return neighbours and not first.length and not second.length and answer.sampling.temperature > 0


def build_request(answers: Sequence[Answer]) -> GenerateRequest:
    """One request for all of `answers`, a work of `build_works`.

    An answer's seed is a function of the job's seed, its prompt, group, place in the group and length. So a request
    that was lost samples the same tokens again, with whichever neighbours, and the rest of an answer is sampled with
    other random numbers than its beginning.
    """
    first = answers[0]
    trajectory, sampling = first.trajectory, first.sampling
    place = (sampling.seed, trajectory.prompt_id, trajectory.group_id, trajectory.length)
    seed = xxhash.xxh3_64_intdigest(repr(place).encode()) >> 2  # vLLM adds to it; 63 bits at most
    return GenerateRequest(
        prompt=[*first.prompt, *trajectory.tokens.tolist()],
        count=len(answers),
        max_tokens=min(first.allowance, sampling.max_tokens - trajectory.length),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed + trajectory.index,
        repetition=sampling.repetition,
    )


def apply_generated(answer: Answer, generated: Generated, *, iteration: int, engine: str) -> None:
    """Append what `engine` generated during `iteration` to the answer, and take it off its allowance.

    LENGTH becomes BUDGET where only the iteration's budget is spent; an answer that goes in circles across the borders
    of its segments is cut there, as the engine would have done, and becomes REPETITION. An abort before the first
    token leaves the answer as it was.
    """
    trajectory = answer.trajectory
    count, reason = len(generated.tokens), generated.finish_reason
    answer.engine = engine
    if reason is FinishReason.ABORTED and not count:
        return
    circles = end_of_circles(trajectory.tokens, generated.tokens, answer.sampling.repetition)
    if circles is not None and circles < count:
        count, reason = circles, FinishReason.REPETITION
    elif reason in (FinishReason.LENGTH, FinishReason.ABORTED):
        if trajectory.length + count >= answer.sampling.max_tokens:
            reason = FinishReason.LENGTH
        elif circles is not None:
            reason = FinishReason.REPETITION
        elif reason is FinishReason.LENGTH:
            reason = FinishReason.BUDGET
    answer.allowance -= count
    trajectory.append(
        Segment(
            tokens=generated.tokens[:count],
            logprobs=generated.logprobs[:count],
            versions=first_versions(generated.versions, count),
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
