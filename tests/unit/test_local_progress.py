"""What `tandem run` shows, and whether a job fits."""

from pathlib import Path

import pytest
from rich.console import Console
from tandem_core.coordination.records import Summary
from tandem_core.job import RLJob, parse_job
from tandem_core.phases import Phase
from tandem_local.addresses import candidate_block
from tandem_local.live_view import build_picture
from tandem_local.log_files import LogFollower, bound_logs, read_tail
from tandem_local.machine import Machine
from tandem_local.pods import LocalPod
from tandem_local.progress import Pace, describe_changes, describe_duration, describe_progress, sparkline
from tandem_local.resources import (
    DoesNotFit,
    assign_devices,
    check_fit,
    count_parameters,
    estimate_need,
    estimate_parameters,
)
from tandem_local.restart_policy import ContainerKind, RestartRule
from tandem_local.run_state import Condition, ContainerState, PodState, RunState, RunStatus

SUMMARY = Summary(
    phase=Phase.ROLLOUT, iteration=3, iterations=10, version=2, reward=0.25, accuracy=0.5, accuracy_before=0.1
)


def state_with(condition: Condition, message: str = "", **changes: object) -> RunState:
    container = ContainerState(name="trainer", kind=ContainerKind.MAIN, condition=condition, message=message)
    pod = PodState(name="add-hybrid-0", workload="add-hybrid", address="127.1.1.2", containers=(container,))
    state = RunState(
        job="add",
        uid="u",
        run_id="r",
        status=RunStatus.RUNNING,
        working_directory=Path("/"),
        address_block="127.1.1.0/24",
        started_at=100.0,
        pods=(pod,),
    )
    return state.model_copy(update=changes)


def job_of(replicas: int = 1) -> RLJob:
    return parse_job(
        f"""
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {{name: add}}
spec:
  iterations: 2
  model: {{scratch: {{hiddenSize: 8, intermediateSize: 16, layers: 1, attentionHeads: 2, keyValueHeads: 1, headSize: 32,
    tokenizer: {{tokens: ["0", "1"]}}}}}}
  data: {{dataset: {{path: p.jsonl}}}}
  rewards: {{scorers: [{{type: exact}}]}}
  hybrid: {{device: cpu, replicas: {replicas}, inference: {{release: none, kvCacheBytes: 67108864}}}}
"""
    )


def pod_with_gpus(name: str, devices: int) -> LocalPod:
    return LocalPod(name, "w", 1, "127.1.1.2", (), (), RestartRule.NEVER, devices=devices)


def machine_of(available_gib: float, shared_gib: float = 4, gpus: int = 0) -> Machine:
    available = int(available_gib * 2**30)
    return Machine(2, available, available, int(shared_gib * 2**30), tuple(str(index) for index in range(gpus)))


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [([], 5, ""), ([1.0], 5, "▁"), ([0.0, 1.0], 5, "▁█"), ([0.0, 0.0, 1.0, 1.0], 2, "▁█"), ([0, 1, 2, 3], 9, "▁▃▆█")],
)
def test_a_sparkline_spans_lowest_to_highest(values: list[float], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


def test_remaining_time_is_known_from_the_second_iteration_on() -> None:
    pace = Pace()
    pace.observe(Phase.LOADING, 2, now=10.0)  # a resumed job starts its engines
    pace.observe(Phase.ROLLOUT, 3, now=100.0)
    assert pace.remaining_seconds(10) is None
    pace.observe(Phase.TRAINING, 3, now=105.0)
    pace.observe(Phase.ROLLOUT, 5, now=120.0)
    assert pace.remaining_seconds(10) == pytest.approx(60.0)  # 5 to 10, 10 s each


@pytest.mark.parametrize(("seconds", "text"), [(45.2, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text


def test_progress_is_told_in_one_line() -> None:
    assert describe_progress(SUMMARY) == ["Rollout 3/10", "reward 0.250", "held-out 50.0%", "weights v2"]


def test_a_crash_is_told_with_its_reason_and_once() -> None:
    before, after = state_with(Condition.RUNNING), state_with(Condition.BACK_OFF, "exited with 1")
    assert describe_changes(before, after) == ["add-hybrid-0/trainer: exited with 1, waiting to restart"]
    assert describe_changes(after, after) == []


def test_the_picture_shows_what_counts() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    state = state_with(Condition.RUNNING, summary=SUMMARY.model_copy(update={"message": "waiting for [engine]"}))
    console.print(build_picture(state, [0.1, 0.25], 90.0, now=160.0))
    text = console.export_text()
    for part in ("iteration 3/10", "Rollout", "0.250", "▁█", "50.0%", "waiting for [engine]", "1 min 30 s", "trainer"):
        assert part in text


def test_parameters_are_counted_as_transformers_does_without_norms() -> None:
    scratch = job_of().spec.model.scratch
    assert scratch is not None
    attention, feed_forward, embedding = 8 * 64 + 2 * 8 * 32 + 64 * 8, 3 * 8 * 16, 4 * 8
    assert count_parameters(scratch) == attention + feed_forward + embedding


def test_a_job_that_fits_is_let_through_and_one_that_does_not_is_told_what_to_lower() -> None:
    job = job_of(replicas=2)
    need = estimate_need(job, estimate_parameters(job.spec.model))
    assert 7 * 10**9 < need.total_bytes < 8 * 10**9
    check_fit(job, need, [], machine_of(8))
    with pytest.raises(DoesNotFit, match=r"6\.9 GiB of memory, 4\.0 GiB .*spec\.hybrid\.replicas"):
        check_fit(job, need, [], machine_of(4))


def test_a_small_shared_memory_is_found_before_the_start() -> None:
    job = job_of()
    with pytest.raises(DoesNotFit, match="/dev/shm"):
        check_fit(job, estimate_need(job, 10**8), [], machine_of(16, shared_gib=0.0625))


def test_missing_gpus_are_found_before_the_start() -> None:
    job = job_of()
    with pytest.raises(DoesNotFit, match="needs 2 GPUs, 1 are there"):
        check_fit(job, estimate_need(job, 0), [pod_with_gpus("a", 2)], machine_of(16, gpus=1))


def test_each_pod_gets_gpus_of_its_own() -> None:
    pods = [pod_with_gpus("a", 2), pod_with_gpus("master", 0), pod_with_gpus("b", 2)]
    assert assign_devices(pods, ("0", "1", "2", "3")) == {"a": "0,1", "master": "", "b": "2,3"}
    assert assign_devices(pods, ()) == {"a": "", "master": "", "b": ""}


def test_address_blocks_stay_clear_of_the_usual_loopback_addresses() -> None:
    blocks = [candidate_block("run", attempt) for attempt in range(200)]
    assert all(1 <= int(str(block).split(".")[1]) <= 253 for block in blocks)
    assert len(set(blocks)) > 190


def test_logs_that_grow_too_long_are_moved_away_under_their_writers(tmp_path: Path) -> None:
    log = tmp_path / "pod" / "trainer.log"
    log.parent.mkdir()
    with log.open("ab") as writer:
        writer.write(b"old line\n" * 10)
        writer.flush()
        follower = LogFollower(log)
        bound_logs(tmp_path, largest_bytes=50)
        writer.write(b"new line\nunfinished")
        writer.flush()
    assert log.read_text() == "new line\nunfinished"
    assert (tmp_path / "pod" / "trainer.log.1").read_text() == "old line\n" * 10
    assert follower.read_lines() == ["new line"]
    bound_logs(tmp_path, largest_bytes=50)
    assert log.read_text() == "new line\nunfinished"


@pytest.mark.parametrize(("lines", "expected"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_the_end_of_a_log_is_read(tmp_path: Path, lines: int, expected: list[str]) -> None:
    log = tmp_path / "x.log"
    log.write_text("a\nb\nc\n")
    assert read_tail(log, lines) == expected
    assert read_tail(tmp_path / "missing.log", lines) == []
