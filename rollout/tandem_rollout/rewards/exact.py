"""Whether the answer equals the reference."""

from tandem_core.job.rewards import ExactReward

from tandem_rollout.rewards.answers import AnsweredPrompt


class ExactScorer:
    """1 where answer and reference are the same text, surrounding white space apart."""

    def __init__(self, reward: ExactReward) -> None:
        self._ignore_case = reward.ignore_case

    def score(self, answered: AnsweredPrompt) -> float:
        """1 or 0."""
        response, reference = answered.response.strip(), answered.reference.strip()
        if self._ignore_case:
            response, reference = response.casefold(), reference.casefold()
        return float(response == reference)
