"""What is scored, and what can go wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tandem_core.errors import TandemError

_SHOWN = 200  # characters of a text in an error


class RewardError(TandemError):
    """An answer cannot be scored: names scorer, prompt and cause."""


class ReferenceUnusable(Exception):
    """A scorer can make nothing of the reference answer: the fault is the data's, not the model's."""


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    """One answer with all that scorers may look at; plain data, sent to other processes."""

    prompt_id: int
    prompt: str
    """The model's input."""
    response: str
    """The model's answer."""
    reference: str
    row: Mapping[str, Any]


class LocalScorer(Protocol):
    """Scores one answer at a time on this machine. May raise anything, and may hang."""

    def score(self, answered: AnsweredPrompt) -> float:
        """Between 0 and 1."""
        ...


def describe_failure(scorer: str, answered: AnsweredPrompt, reason: str) -> str:
    """A sentence that names scorer, prompt and reason."""
    return (
        f"scorer {scorer} failed for prompt {answered.prompt_id} ({_show(answered.prompt)}) with the answer "
        f"{_show(answered.response)} and the reference {_show(answered.reference)}: {reason}"
    )


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
