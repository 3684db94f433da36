"""Scores groups as soon as they are complete, while others are still being generated."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tandem_rollout.prompts import Prompt
from tandem_rollout.rewards.answers import RewardError
from tandem_rollout.rewards.scoring import Answer, Scoring
from tandem_rollout.tokenization import Tokenizer
from tandem_rollout.trajectory import FinishReason, Group, Score, ScoredGroup, ScoredSample, Trajectory, build_pieces


class GroupScorer:
    """Groups go in by `submit`, and come out by `on_scored`; `run` is its task."""

    def __init__(
        self,
        scoring: Scoring,
        tokenizer: Tokenizer,
        prompts: Mapping[int, Prompt],
        on_scored: Callable[[ScoredGroup], None],
    ) -> None:
        self._scoring = scoring
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._on_scored = on_scored
        self._waiting: list[Group] = []
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self.pending = 0
        """Groups that are not scored yet."""

    def submit(self, group: Group) -> None:
        """Score a complete group."""
        self.pending += 1
        self._waiting.append(group)
        self._wake.set()

    async def wait_settled(self) -> None:
        """Return as soon as no group is left to score."""
        while self.pending:
            self._settled.clear()
            await self._settled.wait()

    async def run(self) -> None:
        """Score until cancelled; all groups that wait at a time go to the scorers together. Raises RewardError."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                groups, self._waiting = self._waiting, []
                if groups:
                    tasks.create_task(self._score(groups))

    async def _score(self, groups: Sequence[Group]) -> None:
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        texts = [self._tokenizer.decode(trajectory.tokens.tolist()) for trajectory in trajectories]
        scores = await self.score(trajectories, texts)
        samples = iter(zip(trajectories, texts, scores, strict=True))
        for group in groups:
            found = [next(samples) for _ in group.trajectories]
            members = tuple(
                ScoredSample(one, text, score, build_pieces(one, text, self._tokenizer.decode))
                for one, text, score in found
                if score is not None
            )
            if not members:
                raise RewardError(
                    f"no answer of group {group.id} (prompt {group.prompt_id}) could be scored: see the log"
                )
            self._on_scored(ScoredGroup(group.id, group.prompt_id, group.created_iteration, members))
            self.pending -= 1
        self._settled.set()

    async def score(self, trajectories: Sequence[Trajectory], texts: Sequence[str]) -> list[Score | None]:
        """One score for each finished answer, in order; None where nothing is known. Raises RewardError."""
        return await self._scoring.score(
            [
                Answer(self._prompts[trajectory.prompt_id], text, trajectory.finish_reason or FinishReason.STOP)
                for trajectory, text in zip(trajectories, texts, strict=True)
            ]
        )
