"""What the report computes before it draws."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tandem_core.phases import TO_INFERENCE, Phase
from tandem_local.report import samples
from tandem_rollout.page import timeline
from tandem_rollout.page.figures import build_figures, moving_average
from tandem_rollout.page.phase_times import (
    build_phase_seconds,
    format_seconds,
    percentile,
    switch_seconds,
)
from tandem_rollout.storage.history import ActivityRecord, IterationRecord


def activity(pod: str, name: str, start: float, end: float, iteration: int = 1) -> ActivityRecord:
    return ActivityRecord(pod, name, iteration, start, end)


def record(iteration: int, phase_seconds: dict[str, float] | None = None, **metrics: float) -> IterationRecord:
    return IterationRecord(iteration, iteration, metrics, phase_seconds or {}, 0.0)


def test_the_moving_average_starts_at_the_first_value_and_keeps_gaps() -> None:
    assert moving_average([None, 1.0, None, 2.0], factor=0.5) == [None, 1.0, None, 1.5]


def test_figures_without_data_are_left_out() -> None:
    figures = build_figures([record(1, reward=0.5, unknown=1.0), record(2, loss=0.1)], [])
    assert [figure.title for figure in figures] == ["Reward", "Loss"]
    assert figures[0].lines[0].values == [0.5, None]


def test_a_switch_counts_only_where_all_its_phases_were_measured_and_not_in_the_warmup() -> None:
    both = {"Publishing": 1.0, "Loading": 2.0}
    records = [record(0, both), record(1, both), record(2, {"Publishing": 1.0})]
    assert switch_seconds(records, TO_INFERENCE) == [3.0]


def test_the_warmup_is_in_the_table_of_phases_but_not_in_the_figure() -> None:
    phases = build_phase_seconds([record(0, {"Warmup": 30.0}), record(1, {"Rollout": 10.0})])
    assert phases.names == [Phase.ROLLOUT]
    assert [(row.phase, row.share) for row in phases.rows] == [("Warmup", 0.75), ("Rollout", 0.25)]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 5), (0.91, 10), (0.95, 10), (1.0, 10)])
def test_a_percentile_is_one_of_the_values(share: float, expected: int) -> None:
    assert percentile(list(range(10, 0, -1)), share) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.012 s"), (3.44, "3.4 s"), (75, "75 s"), (320, "5 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_same_work_of_several_ranks_is_one_bar() -> None:
    merged = timeline.merge_activities(
        [activity("p", "train", 0, 2), activity("p", "train", 1, 3), activity("p", "train", 5, 6)]
    )
    assert [(item.started_at, item.ended_at) for item in merged] == [(0, 3), (5, 6)]


def test_names_that_never_overlap_share_a_row() -> None:
    lanes = timeline.build_lanes(
        [
            activity("p-10", "a", 0, 1),
            activity("p-2", "a", 0, 2),
            activity("p-2", "b", 1, 3),
            activity("p-2", "c", 3, 4),
        ]
    )
    assert [(lane.pod, list(lane.names)) for lane in lanes] == [("p-2", ["a", "c"]), ("p-2", ["b"]), ("p-10", ["a"])]


spans = st.tuples(st.sampled_from(["p", "q"]), st.sampled_from("abcd"), st.integers(0, 40), st.integers(1, 9))


@given(drawn=st.lists(spans, max_size=30))
def test_no_two_bars_of_a_row_overlap(drawn: list[tuple[str, str, int, int]]) -> None:
    built = timeline.build_timeline([activity(pod, name, start, start + size) for pod, name, start, size in drawn])
    for number in range(len(built.lanes)):
        bars = [bar for bar in built.bars if bar.lane == number]
        assert all(first.end <= second.start for first, second in itertools.pairwise(bars))


def test_very_many_activities_are_cut_at_the_front_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_BARS", 3)
    monkeypatch.setattr(timeline, "MAX_PODS", 1)
    drawn = [activity(f"p-{pod}", "train", 10.0 * i, 10.0 * i + 5, iteration=i) for i in range(5) for pod in range(2)]
    built = timeline.build_timeline(drawn)
    assert [bar.iteration for bar in built.bars] == [2, 3, 4]
    assert built.left_out == "1 of 2 pods and activities before iteration 2"


def test_iterations_are_chosen_evenly_with_the_first_and_the_last() -> None:
    assert samples.choose_evenly(list(range(1, 101)), 4) == [1, 34, 67, 100]
    assert samples.choose_evenly([3, 4], 4) == [3, 4]


def test_long_answers_lose_their_middle() -> None:
    shortened = samples.shorten("a" * 2000 + "b" * 2000)
    assert shortened.startswith("a")
    assert shortened.endswith("b")
    assert "[1000 characters left out]" in shortened
