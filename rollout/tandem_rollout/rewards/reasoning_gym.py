"""The scorer that comes with a reasoning-gym task."""

from tandem_core.job.data import ReasoningGymSource

from tandem_rollout.rewards.answers import AnsweredPrompt
from tandem_rollout.sources import build_reasoning_gym


class ReasoningGymScorer:
    """The task's own score, 0 to 1; most tasks give a share for an answer that only contains the right one.

    If the answer has <answer> tags, only what stands between the last pair is scored, else all of it without
    surrounding white space.
    """

    def __init__(self, source: ReasoningGymSource, seed: int) -> None:
        from reasoning_gym.utils import extract_answer

        self._extract_answer = extract_answer
        self._dataset = build_reasoning_gym(source, seed)

    def score(self, answered: AnsweredPrompt) -> float:
        """0 to 1."""
        text = self._extract_answer(answered.response)
        if text is None:
            text = answered.response.strip()
        return float(self._dataset.score_answer(text, dict(answered.row)))
