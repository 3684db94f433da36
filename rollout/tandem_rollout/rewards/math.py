"""Whether an answer is mathematically equal to the reference, by math-verify."""

from functools import lru_cache
from typing import Any

from tandem_rollout.rewards.answers import AnsweredPrompt, ReferenceUnusable


class MathScorer:
    """1 where math-verify finds the last expression of the answer equal to that of the reference.

    The answer may give it as a number, in LaTeX between dollars, or in a box. What math-verify cannot parse or prove in
    its share of the time counts as wrong. Its time limits are alarm signals: only for a process's main thread.
    """

    def __init__(self, timeout_seconds: float) -> None:
        import math_verify

        self._library = math_verify
        # Parsing and comparing have a limit each; together they stay below the sample's own.
        self._step_seconds = max(1, int(timeout_seconds / 3))
        self._reference = lru_cache(maxsize=65_536)(self._parse_reference)

    def score(self, answered: AnsweredPrompt) -> float:
        """1 or 0. Raises ReferenceUnusable if there is no expression in the reference."""
        reference = self._reference(answered.reference)
        if not reference:
            raise ReferenceUnusable(f"math-verify finds no expression in the reference {answered.reference!r}")
        given = self._parse(answered.response)
        return float(self._library.verify(reference, given, timeout_seconds=self._step_seconds))

    def _parse_reference(self, text: str) -> list[Any]:
        # References are often bare LaTeX (\frac{1}{2}), which math-verify only reads between dollars.
        bare = not any(mark in text for mark in ("$", "\\boxed", "\\(", "\\[", " ", "\n"))
        return (self._parse(f"${text}$") if bare else []) or self._parse(text)

    def _parse(self, text: str) -> list[Any]:
        parsed: list[Any] = self._library.parse(text, parsing_timeout=self._step_seconds)
        return parsed
