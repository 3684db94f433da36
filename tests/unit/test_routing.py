"""Which engine gets the next request."""

import pytest
from tandem_core.coordination.records import EngineState, EngineStatus, Member, Role
from tandem_rollout.answer_pool import ALL_ENGINES, STANDALONE_ENGINES
from tandem_rollout.routing import (
    DEFAULT_CAPACITY,
    Engine,
    choose_engine,
    engine_incarnation,
    engines_with_room,
    fair_share,
    serving_engines,
)


def member(
    name: str, version: int = 3, state: EngineState = EngineState.SERVING, role: Role = Role.SIDECAR, capacity: int = 8
) -> Member:
    status = EngineStatus(url=f"http://{name}", state=state, version=version, max_concurrent_sequences=capacity)
    return Member(name=name, role=role, pod=name, incarnation=f"start-of-{name}", started_at=0.0, engine=status)


def engine(name: str, capacity: int = 8) -> Engine:
    return Engine(name, f"http://{name}", 3, capacity, Role.SIDECAR, "first")


@pytest.mark.parametrize(
    ("found", "serves"),
    [
        (member("a"), True),
        (member("a", version=-1), False),
        (member("a", state=EngineState.IDLE), False),
        (member("a", state=EngineState.STARTING), False),
        (member("a", state=EngineState.RELEASED), False),
        (member("a", state=EngineState.FAILED), False),
        (Member(name="0", role=Role.TRAINER, pod="a", incarnation="x", started_at=0.0), False),
    ],
)
def test_an_engine_gets_requests_if_it_serves(found: Member, serves: bool) -> None:
    assert list(serving_engines({"m": found}, ALL_ENGINES)) == (["m"] if serves else [])


def test_between_rollouts_only_standalone_engines_get_requests() -> None:
    members = {"sidecar/a": member("a"), "inference/b": member("b", role=Role.INFERENCE)}
    assert list(serving_engines(members, STANDALONE_ENGINES)) == ["inference/b"]


def test_an_engine_that_does_not_say_its_capacity_gets_the_usual_one() -> None:
    assert serving_engines({"m": member("a", capacity=0)}, ALL_ENGINES)["m"].capacity == DEFAULT_CAPACITY


def test_an_engine_that_was_restarted_is_another_engine() -> None:
    before = member("a")
    assert before.engine is not None
    after = before.model_copy(update={"engine": before.engine.model_copy(update={"restarts": 1})})
    assert engine_incarnation(before) != engine_incarnation(after)


@pytest.mark.parametrize(
    ("other", "served", "share"),
    [
        (member("b"), True, 5),
        (member("b", state=EngineState.IDLE), True, 5),  # it loads, and will serve again
        (member("b", state=EngineState.RELEASED), True, 5),
        (member("b", state=EngineState.FAILED), True, 9),
        (member("b", state=EngineState.STARTING), False, 9),  # nobody waits for its first start
    ],
)
def test_an_engine_that_loads_finds_its_share_left(other: Member, served: bool, share: int) -> None:
    members = {"a": member("a"), "b": other}
    known = {name: engine_incarnation(each) for name, each in members.items() if served or name == "a"}
    assert fair_share(members, known, ALL_ENGINES, answers=9) == share


@pytest.mark.parametrize(
    ("loads", "preferred", "chosen"),
    [
        ({}, "", "a"),
        ({"a": 1}, "", "b"),
        ({"a": 4, "b": 4}, "", "b"),  # b takes twice as many
        ({"a": 7, "b": 1}, "a", "a"),
        ({"a": 3}, "gone", "b"),
    ],
)
def test_the_engine_with_the_prefix_is_chosen_else_that_with_the_most_room(
    loads: dict[str, int], preferred: str, chosen: str
) -> None:
    found = choose_engine([engine("a", 8), engine("b", 16)], loads, preferred=preferred)
    assert found is not None
    assert found.name == chosen


@pytest.mark.parametrize(
    ("loads", "share", "free"),
    [({}, 99, ["a", "b"]), ({"a": 8}, 99, ["b"]), ({"a": 3, "b": 4}, 4, ["a"]), ({"a": 8, "b": 16}, 99, [])],
)
def test_an_engine_has_room_up_to_its_capacity_and_its_share(
    loads: dict[str, int], share: int, free: list[str]
) -> None:
    assert [each.name for each in engines_with_room([engine("a", 8), engine("b", 16)], loads, share)] == free


@pytest.mark.parametrize(("oldest", "chosen"), [(2, "a"), (3, "a"), (4, None)])
def test_an_engine_too_far_behind_is_not_chosen(oldest: int, chosen: str | None) -> None:
    found = choose_engine([engine("a")], {}, oldest_version=oldest)
    assert (found.name if found else None) == chosen
