"""A scorer that the user wrote."""

import importlib
import traceback
from collections.abc import Callable
from typing import Any

from tandem_core.job.rewards import FunctionReward

from tandem_rollout.rewards.answers import AnsweredPrompt, RewardError


class FunctionScorer:
    """Calls module:function(prompt, response, answer, row, **arguments)."""

    def __init__(self, reward: FunctionReward) -> None:
        self._function = load_function(reward.function)
        self._arguments = reward.arguments

    def score(self, answered: AnsweredPrompt) -> float:
        """What the function returns. Raises what it raises."""
        result = self._function(answered.prompt, answered.response, answered.reference, answered.row, **self._arguments)
        return float(result)


def load_function(place: str) -> Callable[..., Any]:
    """The function at `place` (module:function). Raises RewardError if it is not there."""
    module_name, _, name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's: importing it can raise anything
        last = "".join(traceback.format_exception_only(error)).strip()
        raise RewardError(
            f"the reward function {place} cannot be used: importing {module_name} failed: {last}. The module must be "
            "on PYTHONPATH in the master's pod"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise RewardError(f"the reward function {place} cannot be used: {module_name} has no function {name}")
    return function
