"""Whether a pattern is found in the answer."""

import re

from tandem_core.job.rewards import RegexReward

from tandem_rollout.rewards.answers import AnsweredPrompt

ANSWER_GROUP = "answer"


class RegexScorer:
    """1 where the pattern is found; with a group named answer, where what it holds equals the reference.

    The last place where the pattern is found counts: models correct themselves.
    """

    def __init__(self, reward: RegexReward) -> None:
        self._pattern = re.compile(reward.pattern)
        self._compares = ANSWER_GROUP in self._pattern.groupindex

    def score(self, answered: AnsweredPrompt) -> float:
        """1 or 0."""
        if not self._compares:
            return float(self._pattern.search(answered.response) is not None)
        found = [match[ANSWER_GROUP] for match in self._pattern.finditer(answered.response)]
        return float(bool(found) and found[-1] is not None and found[-1].strip() == answered.reference.strip())
