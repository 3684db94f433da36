"""The names of all metrics, and what each part makes of them."""

import re
import subprocess
import sys
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tandem_core.coordination.records import Activity, EngineState, EngineStatus, PhaseRecord, Role, Summary
from tandem_core.metrics import PARTS, CheckpointEngine, Engine, Master, Operator, TrainerAgent, list_metrics
from tandem_core.phases import Phase
from tandem_operator import metrics as operator_metrics
from tandem_operator.generate.metrics import render_metrics_page
from tandem_operator.plan.autoscale import InferencePods, ReplicaPlan
from tandem_operator.plan.scaling import name_decision
from tandem_rollout import metrics as master_metrics
from tandem_rollout.metrics import JobState
from tandem_sidecar import metrics as engine_metrics
from tandem_sidecar.metrics import EngineView
from tandem_sidecar.timeline import Timeline

OF_PROCESS = {"process", "python"}
OURS = [metric for part in PARTS if part is not Engine for metric in list_metrics(part)]
SUMMARY = Summary(phase=Phase.ROLLOUT, iteration=3, iterations=5, version=2, reward=0.5, samples=64)
RECORD = PhaseRecord(iteration=3, phase=Phase.ROLLOUT, version=2, token=1, started_at=1000.0)
TRAINING = {
    "loss": 0.1,
    "gradient_norm": 2.0,
    "logprob_difference_mean": 0.01,
    "logprob_difference_max": 0.1,
    "kl": 0.001,
    "model_flops_utilisation": 0.4,
}


def samples(text: bytes) -> dict[str, float]:
    """Value by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def families(registry: CollectorRegistry) -> set[str]:
    return {family.name for family in registry.collect() if family.name.partition("_")[0] not in OF_PROCESS}


def names(metrics: Iterable[str]) -> set[str]:
    return {name.partition("{")[0] for name in metrics}


def series(part: type) -> set[str]:
    return {name for metric in list_metrics(part) for name in metric.series}


def test_no_name_stands_for_two_things() -> None:
    everything = [name for part in PARTS for metric in list_metrics(part) for name in metric.series]
    assert len(everything) == len(set(everything))


@pytest.mark.parametrize("metric", OURS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions_of_prometheus(metric: object) -> None:
    name, meaning, kind = metric.name, metric.meaning, metric.kind  # type: ignore[attr-defined]
    assert re.fullmatch(r"tandem_[a-z0-9]+(_[a-z0-9]+)*", name)
    assert not name.endswith(("_total", "_count", "_sum", "_bucket", "_info")), "the client library adds these"
    assert not re.search(r"milliseconds|minutes|_ms|kilobytes|megabytes|_mib|percent", name), "base units"
    assert meaning[0].isupper() or meaning[0].isdigit()
    assert meaning.endswith(".")
    if kind == "histogram":
        bounds = metric.bounds  # type: ignore[attr-defined]
        assert bounds == tuple(sorted(set(bounds)))
        assert 5 <= len(bounds) <= 20


def test_the_page_has_all_of_them() -> None:
    page = render_metrics_page()
    for part in PARTS:
        for metric in list_metrics(part):
            assert f"| `{metric.series[0] if metric.kind == 'counter' else metric.name}` | {metric.kind} |" in page


def test_the_operator_makes_all_of_its_own() -> None:
    assert families(operator_metrics.REGISTRY) == {metric.name for metric in list_metrics(Operator)}


def test_the_agent_makes_all_of_its_own() -> None:
    program = "from tandem_trainer.metrics import render_metrics; print(render_metrics().decode())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = names(samples(done.stdout.encode()))
    assert series(TrainerAgent) <= found
    assert "process_resident_memory_bytes" in found


def test_the_master_shows_the_job() -> None:
    master_metrics.note_phase(Phase.LOADING, 0.3)
    master_metrics.note_switch(Phase.LOADING, {Phase.PUBLISHING: 0.1, Phase.LOADING: 0.3})
    master_metrics.note_switch(Phase.DRAINING, {Phase.DRAINING: 0.2})
    master_metrics.SCORING_SECONDS.labels("exact").observe(0.01)
    master_metrics.SCORING_FAILURES.labels("exact").inc()
    full = SUMMARY.model_copy(update={"reward_average": 0.4, "accuracy": 0.6, "tokens_per_second": 100.0})
    state = JobState(full, RECORD, 60.0, missing=2, training=TRAINING, groups={"open": 1, "complete": 3})
    found = samples(master_metrics.render_metrics(lambda: state))
    assert series(Master) <= names(found)
    assert found["tandem_phase{phase=Rollout}"] == 1
    assert found["tandem_phase{phase=Loading}"] == 0
    assert found["tandem_phase_started_timestamp_seconds"] == 1000
    assert (found["tandem_phase_deadline_seconds"], found["tandem_missing_members"]) == (60, 2)
    assert found["tandem_replay_buffer_groups{state=complete}"] == 3
    assert found["tandem_training_mfu_ratio"] == 0.4
    assert found["tandem_switch_seconds_sum{to=inference}"] == pytest.approx(0.4)
    assert found["tandem_switch_seconds_count{to=training}"] == 1


def test_what_is_not_known_yet_is_not_shown() -> None:
    found = names(samples(master_metrics.render_metrics(lambda: JobState(SUMMARY))))
    assert {"tandem_reward", "tandem_samples_total"} <= found
    assert (
        not {"tandem_accuracy_ratio", "tandem_training_loss", "tandem_phase", "tandem_phase_deadline_seconds"} & found
    )
    before = names(samples(master_metrics.render_metrics(lambda: None)))
    assert "tandem_reward" not in before
    assert "tandem_generated_tokens_total" in before


def test_half_a_switch_is_none() -> None:
    before = samples(master_metrics.render_metrics(lambda: None)).get("tandem_switch_seconds_count{to=inference}", 0)
    master_metrics.note_switch(Phase.PUBLISHING, {Phase.PUBLISHING: 0.1})
    master_metrics.note_switch(Phase.LOADING, {Phase.LOADING: 0.1})
    after = samples(master_metrics.render_metrics(lambda: None)).get("tandem_switch_seconds_count{to=inference}", 0)
    assert after == before


def test_tokens_are_counted_by_the_kind_of_their_engine() -> None:
    before = samples(master_metrics.render_metrics(lambda: None))
    master_metrics.note_generated(Role.SIDECAR, 5)
    master_metrics.note_generated(Role.INFERENCE, 7)
    after = samples(master_metrics.render_metrics(lambda: None))
    grown = {key: after[key] - before[key] for key in after if key.startswith("tandem_generated_tokens_total")}
    assert grown == {
        "tandem_generated_tokens_total{engines=hybrid}": 5,
        "tandem_generated_tokens_total{engines=inference}": 7,
    }


def test_the_checkpoint_engine_shows_its_engine() -> None:
    timeline = Timeline(engine_metrics.note_step)
    timeline.add(Activity(name="update", started_at=1.0, ended_at=1.5))
    status = EngineStatus(url="", state=EngineState.SERVING, version=4, restarts=2)
    found = samples(engine_metrics.render_metrics(lambda: EngineView(status, newest_version=6)))
    assert found["tandem_engine_state{state=serving}"] == 1
    assert found["tandem_engine_state{state=failed}"] == 0
    assert (found["tandem_engine_version"], found["tandem_engine_version_lag"]) == (4, 2)
    assert found["tandem_engine_restarts_total"] == 2
    assert found["tandem_engine_step_seconds_sum{step=update}"] == 0.5
    received = {"tandem_weight_receive_seconds_bucket", "tandem_weight_receive_seconds_sum"}
    assert series(CheckpointEngine) - names(found) <= {*received, "tandem_weight_receive_seconds_count"}


def test_an_engine_without_weights_is_not_behind() -> None:
    status = EngineStatus(url="", state=EngineState.RELEASED)
    found = names(samples(engine_metrics.render_metrics(lambda: EngineView(status, newest_version=6))))
    assert "tandem_engine_version" in found
    assert "tandem_engine_version_lag" not in found


@pytest.mark.parametrize(
    ("before", "after", "decision"),
    [
        pytest.param((2, ()), (2, ()), "", id="nothing"),
        pytest.param((2, ()), (4, ()), "grow", id="more"),
        pytest.param((2, ()), (2, ("b",)), "drain", id="one is to go"),
        pytest.param((2, ("b",)), (1, ("b",)), "shrink", id="it goes"),
        pytest.param((2, ("b",)), (2, ()), "keep", id="it stays"),
        pytest.param((2, ("gone",)), (2, ()), "", id="it has gone by itself"),
    ],
)
def test_decisions_of_the_autoscaler_have_names(
    before: tuple[int, tuple[str, ...]], after: tuple[int, tuple[str, ...]], decision: str
) -> None:
    current = InferencePods(before[0], ("a", "b"), frozenset(("a", "b")), before[1])
    assert name_decision(current, ReplicaPlan(*after, "")) == decision
