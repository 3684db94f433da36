"""Which engine gets the next request."""

import pytest
from tandem_core.coordination.records import EngineState, EngineStatus, Member, Role
from tandem_rollout.answer_pool import ALL_ENGINES, STANDALONE_ENGINES
from tandem_rollout.routing import DEFAULT_CAPACITY, Engine, choose_engine, serving_engines


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
        (member("a", version=2), True),
        (member("a", version=1), False),
        (member("a", version=4), True),
        (member("a", version=-1), False),
        (member("a", state=EngineState.IDLE), False),
        (member("a", state=EngineState.STARTING), False),
        (member("a", state=EngineState.RELEASED), False),
        (member("a", state=EngineState.FAILED), False),
        (Member(name="0", role=Role.TRAINER, pod="a", incarnation="x", started_at=0.0), False),
    ],
)
def test_an_engine_gets_requests_if_it_serves_and_is_not_too_far_behind(found: Member, serves: bool) -> None:
    engines = serving_engines({"m": found}, newest_version=3, max_staleness=1, roles=ALL_ENGINES)
    assert list(engines) == (["m"] if serves else [])


def test_between_rollouts_only_standalone_engines_get_requests() -> None:
    members = {"sidecar/a": member("a"), "inference/b": member("b", role=Role.INFERENCE)}
    engines = serving_engines(members, newest_version=3, max_staleness=0, roles=STANDALONE_ENGINES)
    assert list(engines) == ["inference/b"]


def test_an_engine_that_does_not_say_its_capacity_gets_the_usual_one() -> None:
    engines = serving_engines({"m": member("a", capacity=0)}, newest_version=3, max_staleness=0, roles=ALL_ENGINES)
    assert engines["m"].capacity == DEFAULT_CAPACITY


def test_an_engine_that_was_restarted_is_another_engine() -> None:
    before = member("a")
    assert before.engine is not None
    after = before.model_copy(update={"engine": before.engine.model_copy(update={"restarts": 1})})
    first, second = (
        serving_engines({"m": each}, newest_version=3, max_staleness=0, roles=ALL_ENGINES)["m"]
        for each in (before, after)
    )
    assert first.incarnation != second.incarnation


@pytest.mark.parametrize(
    ("loads", "preferred", "chosen"),
    [
        ({}, "", "a"),
        ({"a": 1}, "", "b"),
        ({"a": 4, "b": 4}, "", "b"),  # b takes twice as many
        ({"a": 7, "b": 1}, "a", "a"),
        ({"a": 8, "b": 1}, "a", "b"),
        ({"a": 3}, "gone", "b"),
        ({"a": 8, "b": 16}, "", None),
    ],
)
def test_the_engine_with_the_most_room_is_chosen(loads: dict[str, int], preferred: str, chosen: str | None) -> None:
    engines = {"a": engine("a", 8), "b": engine("b", 16)}
    found = choose_engine(engines, loads, preferred)
    assert (found.name if found else None) == chosen


def test_without_engines_none_is_chosen() -> None:
    assert choose_engine({}, {}) is None
