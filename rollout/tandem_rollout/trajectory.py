"""What is generated: an answer is a list of segments, one for each iteration that worked on it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt


class FinishReason(StrEnum):
    """Why a segment ended."""

    STOP = "stop"
    """The model ended its answer."""
    LENGTH = "length"
    """The answer reached rollout.maxTokens."""
    REPETITION = "repetition"
    """The answer went in circles."""
    BUDGET = "budget"
    """The iteration's budget (rollout.tokensPerIteration) is spent: to be continued."""
    ABORTED = "aborted"
    """The engine was stopped, or lost: to be continued."""

    @property
    def final(self) -> bool:
        """Whether nothing follows the segment."""
        return self in (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)


class TrajectoryState(StrEnum):
    """How far an answer is."""

    UNFINISHED = "unfinished"
    FINISHED = "finished"
    """Generated, not scored."""
    SCORED = "scored"


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """The next `count` tokens of a segment were made by the weights of `version`."""

    version: int
    count: int


def first_versions(spans: Sequence[VersionSpan], count: int) -> tuple[VersionSpan, ...]:
    """The spans of the first `count` tokens."""
    kept: list[VersionSpan] = []
    for span in spans:
        if count > 0:
            kept.append(VersionSpan(span.version, min(span.count, count)))
        count -= span.count
    return tuple(kept)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """What one iteration added to an answer: n tokens."""

    tokens: npt.NDArray[np.int32]
    """[n]"""
    logprobs: npt.NDArray[np.float32]
    """[n] the engine's log-probability of each token."""
    versions: tuple[VersionSpan, ...]
    """The counts add up to n."""
    finish_reason: FinishReason
    iteration: int
    """The iteration that generated it."""

    def __post_init__(self) -> None:
        """Raises ValueError if the arrays do not fit together."""
        counted = sum(span.count for span in self.versions)
        if not len(self.tokens) == len(self.logprobs) == counted:
            raise ValueError(
                f"a segment has {len(self.tokens)} tokens, {len(self.logprobs)} log-probabilities and versions for "
                f"{counted} tokens: the three must agree"
            )

    def token_versions(self) -> npt.NDArray[np.int32]:
        """[n] the version that made each token."""
        spans = [np.full(span.count, span.version, dtype=np.int32) for span in self.versions]
        return np.concatenate(spans) if spans else np.empty(0, dtype=np.int32)


@dataclass(slots=True, eq=False)
class Trajectory:
    """One answer to one prompt. Grows by segments; its identity comes from the replay buffer."""

    id: int
    prompt_id: int
    group_id: int
    index: int
    """Which of the group's answers it is, from 0."""
    segments: list[Segment] = field(default_factory=list)
    state: TrajectoryState = TrajectoryState.UNFINISHED
    saved_segments: int = 0
    """How many segments the replay buffer has; it keeps this number."""

    @property
    def is_kept(self) -> bool:
        """Whether the replay buffer has it; evaluations' answers have ids below 0."""
        return self.id >= 0

    @property
    def length(self) -> int:
        """Tokens generated so far."""
        return sum(len(segment.tokens) for segment in self.segments)

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """[length] all generated tokens."""
        return _joined([segment.tokens for segment in self.segments], np.dtype(np.int32))

    @property
    def logprobs(self) -> npt.NDArray[np.float32]:
        """[length] the engine's log-probabilities of all generated tokens."""
        return _joined([segment.logprobs for segment in self.segments], np.dtype(np.float32))

    @property
    def versions(self) -> npt.NDArray[np.int32]:
        """[length] the weight version that made each token."""
        return _joined([segment.token_versions() for segment in self.segments], np.dtype(np.int32))

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the last segment ended; None: nothing generated yet."""
        return self.segments[-1].finish_reason if self.segments else None

    def generated_in(self, iteration: int) -> int:
        """Tokens that this iteration added."""
        return sum(len(segment.tokens) for segment in self.segments if segment.iteration == iteration)

    def append(self, segment: Segment) -> None:
        """Add what was generated; a final finish reason makes the state FINISHED.

        Raises ValueError if the answer has been finished before.
        """
        if self.state != TrajectoryState.UNFINISHED:
            raise ValueError(f"trajectory {self.id} is {self.state}: it cannot be continued")
        self.segments.append(segment)
        if segment.finish_reason.final:
            self.state = TrajectoryState.FINISHED


@dataclass(slots=True, eq=False)
class Group:
    """All answers to one drawing of a prompt; they are compared with each other."""

    id: int
    prompt_id: int
    created_iteration: int
    trajectories: list[Trajectory]

    @property
    def complete(self) -> bool:
        """Whether all answers are generated (scored or not)."""
        return all(trajectory.state != TrajectoryState.UNFINISHED for trajectory in self.trajectories)


@dataclass(frozen=True, slots=True)
class Score:
    """What the scorers say about one answer."""

    reward: float
    """Sum of weight times part over the scorers, minus the repetition penalty; the length reward is not in it."""
    parts: Mapping[str, float]
    """Scorer name -> its own result, 0 to 1, before its weight."""
    correct: bool
    """Whether `reward` reaches rewards.correctAt."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer's text that one version made in one iteration, for those who read it."""

    iteration: int
    version: int
    tokens: int
    characters: int
    """Of the text; the pieces' add up to all of it."""
    finish_reason: str
    """Of the segment that ends with this piece; empty: the segment goes on with another version."""


def build_pieces(trajectory: Trajectory, text: str, decode: Callable[[Sequence[int]], str]) -> tuple[Piece, ...]:
    """The pieces of the answer whose whole text is `text`; `decode` gives the text of tokens."""
    spans = [
        (segment, span, number == len(segment.versions) - 1)
        for segment in trajectory.segments
        for number, span in enumerate(segment.versions)
    ]
    tokens = trajectory.tokens.tolist()
    pieces: list[Piece] = []
    place = told = 0
    for segment, span, last in spans:
        place += span.count
        # A character may lie on a border: what both texts begin with is certain.
        end = len(text) if place == len(tokens) else _shared_length(text, decode(tokens[:place]))
        characters = max(0, end - told)
        told += characters
        reason = segment.finish_reason.value if last else ""
        pieces.append(Piece(segment.iteration, span.version, span.count, characters, reason))
    return tuple(pieces)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSample:
    """A finished answer and its score."""

    trajectory: Trajectory
    text: str
    """The answer's text, special tokens left out."""
    score: Score
    pieces: tuple[Piece, ...] = ()
    """Empty: not known."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredGroup:
    """A group whose answers are all scored: ready to be trained on."""

    id: int
    prompt_id: int
    created_iteration: int
    samples: tuple[ScoredSample, ...]
    """By index of the answer."""


def _shared_length(first: str, second: str) -> int:
    """How many characters both begin with."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _joined[T: np.generic](parts: list[npt.NDArray[T]], dtype: np.dtype[T]) -> npt.NDArray[T]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
