"""Which scorer a reward of the RLJob asks for, among those that run on this machine."""

from tandem_core.job import RLJobSpec
from tandem_core.job.rewards import (
    CodeReward,
    ExactReward,
    FunctionReward,
    HttpReward,
    MathReward,
    ReasoningGymReward,
    RegexReward,
    Reward,
)

from tandem_rollout.rewards.answers import LocalScorer, RewardError
from tandem_rollout.rewards.exact import ExactScorer
from tandem_rollout.rewards.function import FunctionScorer
from tandem_rollout.rewards.math import MathScorer
from tandem_rollout.rewards.reasoning_gym import ReasoningGymScorer
from tandem_rollout.rewards.regex import RegexScorer


def scorer_name(reward: Reward) -> str:
    """The name in reports and metrics."""
    return reward.name or reward.type


def needs_process(reward: Reward) -> bool:
    """Whether the scorer may hang or use up memory, and so runs in a process that can be ended."""
    return not isinstance(reward, ExactReward | HttpReward | CodeReward)


def wrong_when_failing(reward: Reward) -> bool:
    """Whether an answer that the scorer cannot cope with counts as wrong.

    So it is for libraries that interpret what the model wrote: a model under training finds texts that make them raise
    or hang. A function or pattern of the user's that fails is the user's to mend.
    """
    return isinstance(reward, MathReward | ReasoningGymReward)


def build_local_scorer(reward: Reward, spec: RLJobSpec) -> LocalScorer:
    """The scorer of one reward. Raises RewardError or SourceError if it cannot be had."""
    match reward:
        case ExactReward():
            return ExactScorer(reward)
        case RegexReward():
            return RegexScorer(reward)
        case MathReward():
            return MathScorer(spec.rewards.timeout_seconds)
        case FunctionReward():
            return FunctionScorer(reward)
        case ReasoningGymReward():
            if spec.data.reasoning_gym is None:
                raise RewardError("a reasoning-gym reward needs data.reasoningGym")
            return ReasoningGymScorer(spec.data.reasoning_gym, spec.seed)
        case HttpReward() | CodeReward():
            raise ValueError(f"a reward of type {reward.type} is not scored in a process of ours")
