"""Prompts as the job uses them: rendered, tokenised, checked, split into training and held-out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import structlog
import xxhash
from tandem_core.errors import TandemError
from tandem_core.job import RLJobSpec

from tandem_rollout.sources import load_rows, show
from tandem_rollout.templates import render_rows
from tandem_rollout.tokenization import Tokenizer

_log = structlog.get_logger(__name__)


class PromptError(TandemError):
    """The job's data cannot be used; the message names the row and the remedy."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem."""

    id: int
    """Its row in the source, from 0."""
    text: str
    """The model's input, templates applied."""
    answer: str
    """The reference answer, as scorers see it."""
    row: Mapping[str, Any]
    """All columns of the source; for reasoning-gym the entry (question, answer, metadata)."""
    difficulty: float | None
    """Larger for harder prompts."""
    tokens: tuple[int, ...]
    """`text` tokenised."""
    target: str
    """The answer that the warm-up imitates (data.answerTemplate)."""


@dataclass(frozen=True)
class PromptSet:
    """All prompts of a job; no text is in both parts."""

    training: tuple[Prompt, ...]
    """By id."""
    held_out: tuple[Prompt, ...]
    """In random order: the first n are a fair sample."""

    @cached_property
    def by_id(self) -> Mapping[int, Prompt]:
        """Every prompt."""
        return {prompt.id: prompt for prompt in (*self.training, *self.held_out)}


def load_prompts(spec: RLJobSpec, tokenizer: Tokenizer) -> PromptSet:
    """Read, render, tokenise, check and split the job's prompts; a function of spec and source only.

    Rows that repeat an earlier prompt and answer are left out. Raises SourceError or PromptError.
    """
    rows = load_rows(spec.data, spec.seed)
    texts, targets = render_rows(spec.data, rows)
    if spec.data.chat:
        texts = [tokenizer.render_chat(text) for text in texts]
    # A chat template writes the special tokens itself.
    tokens = tokenizer.encode(texts, special_tokens=not spec.data.chat)
    prompts = _without_repeats(
        Prompt(row.id, text, row.answer, row.row, row.difficulty, tuple(ids), target)
        for row, text, target, ids in zip(rows, texts, targets, tokens, strict=True)
    )
    if spec.model.scratch is not None:
        _check_expressible(prompts, tokenizer, spec.model.scratch.tokenizer.tokens)
    if spec.warmup.steps:
        _check_targets(prompts, tokenizer, spec.rollout.max_tokens)
    return split_prompts(_fitting(spec, prompts, tokenizer), spec.data.held_out, spec.seed)


def split_prompts(prompts: Sequence[Prompt], share: float, seed: int) -> PromptSet:
    """Hold out about `share` of the texts, at least one. Which ones depends on seed and text alone, not on order.

    Raises PromptError if there are fewer than two different texts.
    """

    def place(text: str) -> int:
        return xxhash.xxh3_64_intdigest(text.encode(), seed=seed & (2**64 - 1))

    texts = sorted({prompt.text for prompt in prompts}, key=lambda text: (place(text), text))
    if len(texts) < 2:
        raise PromptError(
            f"the data has {len(texts)} different prompt(s); at least 2 are needed, one to train on and one held out"
        )
    held_out = {text: rank for rank, text in enumerate(texts[: min(max(1, round(share * len(texts))), len(texts) - 1)])}
    return PromptSet(
        training=tuple(prompt for prompt in prompts if prompt.text not in held_out),
        held_out=tuple(
            sorted((prompt for prompt in prompts if prompt.text in held_out), key=lambda each: held_out[each.text])
        ),
    )


def _without_repeats(prompts: Iterable[Prompt]) -> list[Prompt]:
    first: dict[tuple[str, str], Prompt] = {}
    total = 0
    for prompt in prompts:
        first.setdefault((prompt.text, prompt.answer), prompt)
        total += 1
    if len(first) < total:
        _log.info("repeated prompts left out", prompts=total, different=len(first))
    return list(first.values())


def _check_expressible(prompts: Sequence[Prompt], tokenizer: Tokenizer, vocabulary: Sequence[str]) -> None:
    """A closed vocabulary must be able to say every prompt and every reference answer."""
    texts = [text for prompt in prompts for text in (prompt.text, prompt.target)]
    for index, (text, ids) in enumerate(zip(texts, tokenizer.encode(texts), strict=True)):
        if tokenizer.decode(ids) == text:
            continue
        known = re.compile("|".join(re.escape(token) for token in sorted(vocabulary, key=len, reverse=True)))
        missing = [piece for piece in known.split(text) if piece]
        raise PromptError(
            f"row {prompts[index // 2].id}: the {'answer' if index % 2 else 'prompt'} {show(text)} cannot be written "
            f"with model.scratch.tokenizer.tokens: no token for {', '.join(map(show, missing)) or 'parts of it'}; "
            "add tokens, or change the template"
        )


def _check_targets(prompts: Sequence[Prompt], tokenizer: Tokenizer, max_tokens: int) -> None:
    """The warm-up must not teach answers that a rollout could not give."""
    targets = tokenizer.encode([prompt.target for prompt in prompts], special_tokens=False)
    for prompt, target in zip(prompts, targets, strict=True):
        if not prompt.target:
            raise PromptError(
                f"row {prompt.id} has no reference answer for the warm-up to imitate: write data.answerTemplate so "
                "that it gives one, or set warmup.steps to 0"
            )
        if len(target) + 1 > max_tokens:
            raise PromptError(
                f"row {prompt.id}: the reference answer {show(prompt.target)} has {len(target)} tokens and one for its "
                f"end, but rollout.maxTokens is {max_tokens}: raise rollout.maxTokens, or set warmup.steps to 0"
            )


def _fitting(spec: RLJobSpec, prompts: list[Prompt], tokenizer: Tokenizer) -> list[Prompt]:
    """The prompts that leave room for an answer of rollout.maxTokens. An empty one is refused."""
    for prompt in prompts:
        if not prompt.tokens:
            raise PromptError(f"row {prompt.id} gives a prompt that is empty: remove it, or change data.promptTemplate")
    limit = tokenizer.max_length
    if spec.hybrid.inference.max_length is not None:
        limit = min(limit, spec.hybrid.inference.max_length)
    room = limit - spec.rollout.max_tokens
    too_long = [prompt for prompt in prompts if len(prompt.tokens) > room]
    if not too_long:
        return prompts
    longest = max(too_long, key=lambda prompt: len(prompt.tokens))
    if spec.data.too_long == "error" or len(too_long) == len(prompts):
        raise PromptError(
            f"{len(too_long)} of {len(prompts)} prompts are too long, the longest is row {longest.id} with "
            f"{len(longest.tokens)} tokens ({show(longest.text)}): with answers of rollout.maxTokens "
            f"{spec.rollout.max_tokens} and sequences of at most {limit} tokens there is room for {max(0, room)}. "
            "Lower rollout.maxTokens, raise hybrid.inference.maxLength (up to the model's own limit, "
            f"{tokenizer.max_length}), or set data.tooLong: skip"
        )
    _log.warning("too long prompts left out", left_out=len(too_long), prompts=len(prompts), room_tokens=room)
    return [prompt for prompt in prompts if len(prompt.tokens) <= room]
