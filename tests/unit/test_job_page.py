"""What the job's page decides: smoothing, places in lists, pieces of answers, versions by engine."""

from collections.abc import Sequence
from pathlib import Path
from socket import AF_INET

import numpy as np
import psutil
import pytest
from pydantic import ValidationError
from tandem_core.coordination.records import EngineState, EngineStatus, Member, Role
from tandem_core.errors import TandemError
from tandem_core.job import load_job
from tandem_local.inspection.kubectl import KubectlFailed
from tandem_local.restart_policy import ContainerKind
from tandem_local.run_state import ContainerState, PodState, RunState
from tandem_local.web_page.browser import page_address, tell_address
from tandem_local.web_page.cluster import parse_forwarding
from tandem_local.web_page.machine import find_master
from tandem_rollout.listening import listen
from tandem_rollout.page import curves
from tandem_rollout.page.curves import build_curves
from tandem_rollout.page.engines import build_engines, build_versions
from tandem_rollout.page.figures import moving_average
from tandem_rollout.served_versions import ServedVersions
from tandem_rollout.storage.browsing import AnswerQuery, Cursor, parse_cursor
from tandem_rollout.storage.history import AccuracyRecord, IterationRecord, ServedRecord
from tandem_rollout.trajectory import FinishReason, Segment, Trajectory, VersionSpan, build_pieces

from tools.free_ports import find_free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"


@pytest.mark.parametrize(
    ("factor", "values", "averages"),
    [
        (0.5, [0.0, 1.0, 1.0], [0.0, 0.5, 0.75]),
        (1.0, [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]),
        (0.1, [1.0, None, 2.0], [1.0, None, 1.1]),
        (0.1, [None, None], [None, None]),
        (0.1, [], []),
    ],
)
def test_an_average_begins_at_the_first_value(
    factor: float, values: list[float | None], averages: list[float | None]
) -> None:
    assert moving_average(values, factor) == averages


def records(count: int) -> list[IterationRecord]:
    """From iteration 0, the warm-up, on; the reward is the iteration."""
    phases = {"Rollout": 1.0, "Training": 2.0}
    return [IterationRecord(number, number, {"reward": float(number)}, phases, 0.0) for number in range(count + 1)]


@pytest.mark.parametrize(
    ("smoothing", "labels"),
    [(0.0, ["reward"]), (0.5, ["reward", "moving average"]), (0.99, ["reward", "moving average"])],
)
def test_a_smoothed_curve_has_its_raw_values_behind_it(smoothing: float, labels: list[str]) -> None:
    built = build_curves(10, records(4), [AccuracyRecord(0, 0.25, 8)], smoothing)
    (figure,) = built.figures
    assert [line.label for line in figure.lines] == labels
    assert [line.faint for line in figure.lines] == [len(labels) == 2, False][: len(labels)]
    assert figure.lines[0].values == [1.0, 2.0, 3.0, 4.0]
    if smoothing == 0.5:
        assert figure.lines[1].values == [1.0, 1.5, 2.25, 3.125]
    assert figure.points is not None
    assert figure.points.values == [0.25]
    assert next(card.value for card in built.cards if card.label == "Iterations") == "4 of 10"


@pytest.mark.parametrize(
    ("count", "iterations"), [(0, []), (4, [1, 2, 3, 4]), (5, [1, 3, 5]), (8, [2, 4, 6, 8]), (9, [3, 6, 9])]
)
def test_very_many_iterations_are_thinned_and_the_newest_stays(
    monkeypatch: pytest.MonkeyPatch, count: int, iterations: list[int]
) -> None:
    monkeypatch.setattr(curves, "MOST_POINTS", 4)
    built = build_curves(10, records(count), [], 0.0)
    assert built.iterations == iterations
    assert [list(line.values) for figure in built.figures for line in figure.lines] == ([iterations] if count else [])
    assert built.phases.iterations == iterations
    assert all(len(seconds) == len(iterations) for seconds in built.phases.seconds)
    assert {row.phase: row.total for row in built.phases.rows}["Training"] == 2.0 * (count + 1)  # of all


@pytest.mark.parametrize("cursor", [Cursor(0.1 + 0.2, 7), Cursor(-1.0, 0), Cursor(1e-300, 2**62), Cursor(12.0, 65536)])
def test_a_place_in_a_list_survives_the_way_through_a_browser(cursor: Cursor) -> None:
    assert parse_cursor(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "5", "_", "a_1", "1_b", "nan_1", "inf_1", "1_-1", f"1_{2**63}"])
def test_a_place_that_no_page_gave_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="take `next` of the page before"):
        parse_cursor(text)


@pytest.mark.parametrize(
    "given",
    [{"after": "x"}, {"limit": 0}, {"limit": 201}, {"reward_from": "nan"}, {"iteration_to": 2**31}, {"search": "x"}],
)
def test_a_query_that_makes_no_sense_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AnswerQuery.model_validate(given)


def trajectory(*segments: tuple[int, FinishReason, Sequence[tuple[int, int]]]) -> Trajectory:
    """Segments of (iteration, finish reason, [(version, tokens)]); tokens count from 0."""
    made = Trajectory(1, 1, 1, 0)
    for iteration, reason, spans in segments:
        count = sum(tokens for _, tokens in spans)
        tokens = np.arange(made.length, made.length + count, dtype=np.int32)
        versions = tuple(VersionSpan(*span) for span in spans)
        made.append(Segment(tokens, np.zeros(count, np.float32), versions, reason, iteration))
    return made


WORDS = ("ab", "c", "déf", "\ufffd", "g", "")
"""The text of each token; token 3 is half of a character, which the next one completes."""


def decode(tokens: Sequence[int]) -> str:
    return "".join(WORDS[token] for token in tokens).replace("\ufffdg", "é")


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([(1, FinishReason.STOP, [(0, 3)])], [(1, 0, 3, 6, "stop")]),
        (
            [(1, FinishReason.BUDGET, [(0, 1)]), (2, FinishReason.STOP, [(1, 2)])],
            [(1, 0, 1, 2, "budget"), (2, 1, 2, 4, "stop")],
        ),
        ([(3, FinishReason.LENGTH, [(2, 1), (3, 1)])], [(3, 2, 1, 2, ""), (3, 3, 1, 1, "length")]),
        # The character that begins with token 3 belongs to the piece that completes it.
        (
            [(1, FinishReason.BUDGET, [(0, 4)]), (2, FinishReason.STOP, [(1, 2)])],
            [(1, 0, 4, 6, "budget"), (2, 1, 2, 1, "stop")],
        ),
    ],
)
def test_pieces_say_which_version_made_which_part_of_the_text(
    segments: list[tuple[int, FinishReason, list[tuple[int, int]]]], expected: list[tuple[int, int, int, int, str]]
) -> None:
    made = trajectory(*segments)
    text = decode(made.tokens.tolist())
    pieces = build_pieces(made, text, decode)
    assert [
        (piece.iteration, piece.version, piece.tokens, piece.characters, piece.finish_reason) for piece in pieces
    ] == expected
    assert sum(piece.characters for piece in pieces) == len(text)


def engine(pod: str, state: EngineState, version: int, *, role: Role = Role.SIDECAR, restarts: int = 0) -> Member:
    status = EngineStatus(url="http://engine", state=state, version=version, restarts=restarts)
    return Member(name=pod, role=role, pod=pod, incarnation="a", started_at=0.0, engine=status)


def test_stretches_of_serving_a_version_end_when_the_engine_does_otherwise() -> None:
    served = ServedVersions()
    served.observe([engine("a", EngineState.SERVING, 3), engine("b", EngineState.STARTING, -1)], 10.0)
    served.observe([engine("a", EngineState.SERVING, 3), engine("b", EngineState.SERVING, 3)], 11.0)
    assert served.take() == []
    served.observe([engine("a", EngineState.SERVING, 4), engine("b", EngineState.RELEASED, 3)], 15.0)
    served.observe([engine("b", EngineState.SERVING, 3)], 20.0)
    ended = [ServedRecord("a", 3, 10.0, 15.0), ServedRecord("b", 3, 11.0, 15.0), ServedRecord("a", 4, 15.0, 20.0)]
    assert served.current(21.0) == [*ended, ServedRecord("b", 3, 20.0, 21.0)]
    assert served.take() == ended
    assert served.current(22.0) == [ServedRecord("b", 3, 20.0, 22.0)]


def test_engines_are_listed_with_how_far_they_are_behind() -> None:
    trainer = Member(name="0", role=Role.TRAINER, pod="j-hybrid-0", incarnation="a", started_at=0.0)
    members = [
        engine("j-x", EngineState.SERVING, 6, role=Role.INFERENCE),
        engine("j-hybrid-10", EngineState.SERVING, 8),
        engine("j-hybrid-2", EngineState.STARTING, -1, restarts=1),
        trainer,
    ]
    shown = [(each.pod, each.kind, each.version, each.behind, each.restarts) for each in build_engines(members, 8)]
    assert shown == [
        ("j-hybrid-2", "hybrid", -1, 0, 1),
        ("j-hybrid-10", "hybrid", 8, 0, 0),
        ("j-x", "inference", 6, 2, 0),
    ]


def test_versions_are_cut_to_the_time_that_is_shown() -> None:
    served = [
        ServedRecord("p-10", 2, 95.0, 105.0),
        ServedRecord("p-2", 1, 80.0, 99.0),
        ServedRecord("p-2", 2, 108.0, 200.0),
        ServedRecord("p-3", 1, 50.0, 60.0),
    ]
    built = build_versions(served, origin=90.0, end=110.0)
    assert list(built.pods) == ["p-2", "p-10"]
    assert [(bar.lane, bar.version, bar.start, bar.end) for bar in built.bars] == [
        (0, 1, 0.0, 9.0),
        (1, 2, 5.0, 15.0),
        (0, 2, 18.0, 20.0),
    ]


def run_state(*pods: tuple[str, bool]) -> RunState:
    """A run with pods of one container each: (name, whether it is ready); addresses count from 127.1.1.1."""
    return RunState(
        job="addition",
        uid="u",
        run_id="r",
        working_directory=Path(),
        address_block="127.1.1.0/24",
        started_at=0.0,
        pods=tuple(
            PodState(
                name=name,
                workload=name.rpartition("-")[0],
                address=f"127.1.1.{number}",
                containers=(ContainerState(name="main", kind=ContainerKind.MAIN, ready=ready),),
            )
            for number, (name, ready) in enumerate(pods, 1)
        ),
    )


def test_the_page_of_a_run_is_at_its_master() -> None:
    job = load_job(EXAMPLE)
    state = run_state(("addition-hybrid-0", True), ("addition-master-0", True))
    assert page_address(find_master(state, job), 8000, "t") == "http://127.1.1.2:8000/ui/#token=t"
    with pytest.raises(TandemError, match="`tandem status addition` says what it waits for"):
        find_master(run_state(("addition-hybrid-0", True), ("addition-master-0", False)), job)


def test_an_address_is_printed_and_no_browser_opened_where_there_is_no_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_address("http://127.0.0.1:1/ui/#token=t", tmp_path, open_browser=True)
    assert capsys.readouterr().out == "http://127.0.0.1:1/ui/#token=t\n"
    assert list(tmp_path.iterdir()) == []


def own_address() -> str:
    """An address of this machine that is not its loopback's."""
    addresses = [each.address for found in psutil.net_if_addrs().values() for each in found if each.family == AF_INET]
    found = next((address for address in addresses if not address.startswith("127.")), None)
    return found or pytest.skip("this machine has no address but its loopback's")


def test_a_master_in_a_pod_of_its_own_listens_for_port_forward_too() -> None:
    address, port = own_address(), find_free_port()
    listeners = listen(address, port)
    try:
        assert [listener.getsockname()[0] for listener in listeners] == [address, "127.0.0.1"]
        with pytest.raises(
            TandemError, match=f"cannot listen on {address} and 127.0.0.1, port {port}: Address already"
        ):
            listen(address, port)
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize("address", ["127.88.1.2", "::1"])
def test_a_master_that_shares_its_machine_listens_on_its_own_address_alone(address: str) -> None:
    (listener,) = listen(address, find_free_port())
    with listener:
        assert listener.getsockname()[0] == address


def test_the_forwarded_port_is_read_from_what_kubectl_prints() -> None:
    assert parse_forwarding("Forwarding from 127.0.0.1:40001 -> 8000\n") == 40001
    with pytest.raises(KubectlFailed, match="did not begin"):
        parse_forwarding("")
