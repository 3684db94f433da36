"""Choosing among all answers of a job: pure queries, and functions that work in the transaction they are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator
from sqlalchemy import ColumnElement, Row, Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from tandem_rollout.storage.segments import read_pieces
from tandem_rollout.storage.tables import GroupRow, TrajectoryRow
from tandem_rollout.trajectory import Piece, TrajectoryState

MOST_ANSWERS = 200
"""On a page."""
EXCERPT_CHARACTERS = 160
_MOST_ID = 2**63 - 1
_Count = Annotated[int, Field(ge=0, lt=2**31)]


class AnswerOrder(StrEnum):
    """By what answers are ordered; those that are equal in it, the newest first."""

    NEWEST = "newest"
    OLDEST = "oldest"
    BEST = "best"
    """The highest reward first."""
    WORST = "worst"
    LONGEST = "longest"
    SHORTEST = "shortest"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place behind an answer in an order: what is newer than the page shows up before it, and moves nothing."""

    value: float
    """Of the answer, by which it is ordered."""
    id: int

    def __str__(self) -> str:
        """As `parse_cursor` reads it."""
        return f"{self.value!r}_{self.id}"


def parse_cursor(text: str) -> Cursor:
    """Raises ValueError for what no page gave."""
    value, separator, number = text.partition("_")
    try:
        if not separator:
            raise ValueError
        cursor = Cursor(float(value), int(number))
        if isfinite(cursor.value) and 0 <= cursor.id <= _MOST_ID:
            return cursor
        raise ValueError
    except ValueError:
        raise ValueError(f"{text!r} is no place to go on from: take `next` of the page before") from None


class AnswerQuery(BaseModel):
    """Which scored answers are wanted, and in which order. Bounds are inclusive; None: no bound."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    iteration_from: _Count | None = None
    """Least iteration whose batch has the answer."""
    iteration_to: _Count | None = None
    """Greatest iteration."""
    reward_from: FiniteFloat | None = None
    """Least reward."""
    reward_to: FiniteFloat | None = None
    """Greatest reward."""
    tokens_from: _Count | None = None
    """Least length."""
    tokens_to: _Count | None = None
    """Greatest length."""
    correct: bool | None = None
    """Whether it reached rewards.correctAt; left out: both."""
    order: AnswerOrder = AnswerOrder.NEWEST
    after: str = ""
    """`next` of the page before; empty: the first page."""
    limit: int = Field(default=50, ge=1, le=MOST_ANSWERS)
    """Answers on the page."""

    @field_validator("after")
    @classmethod
    def _is_cursor(cls, after: str) -> str:
        if after:
            parse_cursor(after)
        return after


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """An answer in a list."""

    id: int
    iteration: int | None
    """Whose batch has it; None: none yet."""
    reward: float
    correct: bool
    tokens: int
    prompt: str
    """Its first characters, as `text`."""
    text: str


@dataclass(frozen=True, slots=True)
class AnswerPage:
    """Some of the answers that a query is for."""

    answers: tuple[AnswerLine, ...]
    next: str
    """`after` of the next page; empty: this is the last."""
    matching: int | None
    """Answers on all pages; None: not counted, as this is not the first."""


@dataclass(frozen=True, slots=True)
class Sibling:
    """One of the answers to the same drawing of a prompt."""

    id: int
    index: int
    reward: float
    correct: bool


@dataclass(frozen=True, slots=True)
class FullAnswer:
    """All that is known of an answer."""

    id: int
    iteration: int | None
    """Whose batch has it; None: none yet."""
    created_iteration: int
    prompt_id: int
    prompt: str
    group_id: int
    index: int
    text: str
    reward: float
    parts: Mapping[str, float]
    """Scorer -> its own result, before its weight."""
    correct: bool
    tokens: int
    finish_reason: str
    first_version: int
    last_version: int
    pieces: tuple[Piece, ...]
    """Which version made which part; empty: not known."""
    group: tuple[Sibling, ...]
    """All scored answers of the group, this one too."""


_DESCENDING = {AnswerOrder.NEWEST, AnswerOrder.BEST, AnswerOrder.LONGEST}
_ORDERED_BY: Mapping[AnswerOrder, Any] = {
    AnswerOrder.BEST: TrajectoryRow.reward,
    AnswerOrder.WORST: TrajectoryRow.reward,
    AnswerOrder.LONGEST: TrajectoryRow.length,
    AnswerOrder.SHORTEST: TrajectoryRow.length,
}
"""The others: by id, which grows with each drawing of a prompt."""
_SCORED = TrajectoryRow.state == TrajectoryState.SCORED.value


def select_ids(query: AnswerQuery) -> Select[Any]:
    """The ids of a page, in order, and one more if there is a next page; from an index alone."""
    column = _ORDERED_BY.get(query.order)
    keys = [TrajectoryRow.id] if column is None else [column, TrajectoryRow.id]
    descending = query.order in _DESCENDING
    statement = _restrict(select(TrajectoryRow.id, *keys[:-1]), query)
    if query.after:
        cursor = parse_cursor(query.after)
        place = (*([] if column is None else [column.type.python_type(cursor.value)]), cursor.id)
        left, right = tuple_(*keys), tuple_(*place, types=[key.type for key in keys])
        statement = statement.where(left < right if descending else left > right)
    return statement.order_by(*(key.desc() if descending else key for key in keys)).limit(query.limit + 1)


def select_count(query: AnswerQuery) -> Select[Any]:
    """How many answers there are on all pages."""
    return _restrict(select(func.count()).select_from(TrajectoryRow), query)


def _restrict(statement: Select[Any], query: AnswerQuery) -> Select[Any]:
    bounds: list[tuple[Any, float | None, float | None]] = [
        (GroupRow.trained_iteration, query.iteration_from, query.iteration_to),
        (TrajectoryRow.reward, query.reward_from, query.reward_to),
        (TrajectoryRow.length, query.tokens_from, query.tokens_to),
    ]
    conditions: list[ColumnElement[bool]] = [_SCORED]
    for column, low, high in bounds:
        conditions += [column >= low] if low is not None else []
        conditions += [column <= high] if high is not None else []
    if query.correct is not None:
        conditions.append(TrajectoryRow.correct.is_(query.correct))
    if query.iteration_from is not None or query.iteration_to is not None:
        statement = statement.join(GroupRow, GroupRow.id == TrajectoryRow.group_id)
    return statement.where(*conditions)


async def find_answers(connection: AsyncConnection, query: AnswerQuery) -> AnswerPage:
    """A page of answers."""
    chosen = (await connection.execute(select_ids(query))).all()
    matching = None if query.after else await connection.scalar(select_count(query))
    shown = chosen[: query.limit]
    ids = [row.id for row in shown]
    rows = {row.id: row for row in await connection.execute(_select_lines(ids))} if ids else {}
    more = len(chosen) > len(shown)
    last = Cursor(float(shown[-1][-1]), ids[-1]) if more else None
    return AnswerPage(tuple(_read_line(rows[number]) for number in ids), str(last or ""), matching)


def _select_lines(ids: list[int]) -> Select[Any]:
    return (
        select(
            *(TrajectoryRow.id, TrajectoryRow.reward, TrajectoryRow.correct, TrajectoryRow.length),
            func.substr(TrajectoryRow.text, 1, EXCERPT_CHARACTERS).label("text"),
            func.substr(GroupRow.prompt, 1, EXCERPT_CHARACTERS).label("prompt"),
            GroupRow.trained_iteration,
        )
        .join(GroupRow, GroupRow.id == TrajectoryRow.group_id)
        .where(TrajectoryRow.id.in_(ids))
    )


def _read_line(row: Row[Any]) -> AnswerLine:
    return AnswerLine(row.id, row.trained_iteration, row.reward, row.correct, row.length, row.prompt, row.text)


async def select_answer(connection: AsyncConnection, number: int) -> FullAnswer | None:
    """The scored answer with this id; None: there is none."""
    statement = (
        select(TrajectoryRow, GroupRow.prompt_id, GroupRow.prompt, GroupRow.created_iteration)
        .add_columns(GroupRow.trained_iteration)
        .join(GroupRow, GroupRow.id == TrajectoryRow.group_id)
        .where(TrajectoryRow.id == number, _SCORED)
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        return None
    siblings = await connection.execute(
        select(TrajectoryRow.id, TrajectoryRow.place, TrajectoryRow.reward, TrajectoryRow.correct)
        .where(TrajectoryRow.group_id == row.group_id, _SCORED)
        .order_by(TrajectoryRow.place)
    )
    return FullAnswer(
        id=row.id,
        iteration=row.trained_iteration,
        created_iteration=row.created_iteration,
        prompt_id=row.prompt_id,
        prompt=row.prompt,
        group_id=row.group_id,
        index=row.place,
        text=row.text,
        reward=row.reward,
        parts=row.parts,
        correct=row.correct,
        tokens=row.length,
        finish_reason=row.finish_reason,
        first_version=row.first_version,
        last_version=row.last_version,
        pieces=read_pieces(row.pieces),
        group=tuple(Sibling(each.id, each.place, each.reward, each.correct) for each in siblings),
    )
