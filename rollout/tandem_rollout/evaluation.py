"""Greedy answers to held-out prompts."""

import asyncio

import structlog
from tandem_core.job import RLJobSpec

from tandem_rollout.answer_pool import AnswerPool
from tandem_rollout.answers import Answer, build_sampling
from tandem_rollout.prompts import PromptSet
from tandem_rollout.rewards import scoring
from tandem_rollout.rewards.scoring import Scoring
from tandem_rollout.storage.history import EvaluationSample
from tandem_rollout.tokenization import Tokenizer
from tandem_rollout.trajectory import FinishReason, Trajectory

log = structlog.get_logger()


class Evaluator:
    """Asks all serving engines for greedy answers, and scores them."""

    def __init__(
        self, spec: RLJobSpec, prompts: PromptSet, tokenizer: Tokenizer, scorers: Scoring, pool: AnswerPool
    ) -> None:
        self._spec = spec
        self._prompts = prompts.held_out[: spec.evaluation.prompts]
        self._tokenizer = tokenizer
        self._scorers = scorers
        self._pool = pool

    async def evaluate(self, iteration: int, deadline_seconds: float) -> list[EvaluationSample] | None:
        """One sample for each held-out prompt; None (and a warning) if the deadline passes before."""
        trajectories = [
            # Never saved: ids below 0 belong to no answer of the replay buffer.
            Trajectory(id=-1 - place, prompt_id=prompt.id, group_id=-1 - place, index=0)
            for place, prompt in enumerate(self._prompts)
        ]
        try:
            async with asyncio.timeout(deadline_seconds):
                await self._generate(trajectories, iteration)
        except TimeoutError:
            log.warning("no evaluation: the engines did not answer in time", iteration=iteration)
            return None
        texts = [self._tokenizer.decode(trajectory.tokens.tolist()) for trajectory in trajectories]
        scores = await self._scorers.score(
            [
                scoring.Answer(prompt, text, trajectory.finish_reason or FinishReason.STOP)
                for prompt, text, trajectory in zip(self._prompts, texts, trajectories, strict=True)
            ]
        )
        return [
            EvaluationSample(
                prompt_id=prompt.id,
                prompt=prompt.text,
                answer=prompt.answer,
                text=text,
                tokens=tuple(trajectory.tokens.tolist()),
                reward=score.reward,
                correct=score.correct,
            )
            for prompt, text, trajectory, score in zip(self._prompts, texts, trajectories, scores, strict=True)
            if score is not None
        ]

    async def _generate(self, trajectories: list[Trajectory], iteration: int) -> None:
        sampling = build_sampling(self._spec.rollout, self._spec.seed, greedy=True)
        missing = len(trajectories)
        finished = asyncio.Event()

        def settled(_: Answer) -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                finished.set()

        answers = [
            # Of the next iteration: only engines that serve this very version may answer.
            Answer(trajectory, prompt.tokens, sampling, iteration + 1, sampling.max_tokens, settled)
            for trajectory, prompt in zip(trajectories, self._prompts, strict=True)
        ]
        self._pool.submit([[answer] for answer in answers])
        try:
            await finished.wait()
        finally:
            self._pool.withdraw(answers)
