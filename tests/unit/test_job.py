"""RLJobs: what is accepted, and how the rest is refused."""

from pathlib import Path

import pytest
from tandem_core.job import JobFileError, RLJobStatus, dump_job, load_job, parse_job
from tandem_core.job.schema import SpecModel
from tandem_core.job.status import WaitingPhase

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_valid_and_survives_a_round_trip(path: Path) -> None:
    job = load_job(path)
    assert parse_job(dump_job(job)) == job


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("invalid/*.yaml")), ids=lambda path: path.stem)
def test_an_invalid_job_is_refused_with_what_to_write(path: Path) -> None:
    expected = path.read_text().splitlines()[0].removeprefix("# expect: ")
    with pytest.raises(JobFileError) as caught:
        load_job(path)
    assert expected in str(caught.value)


def test_overrides_are_applied_before_checking() -> None:
    job = load_job(EXAMPLES / "addition.yaml", ["spec.iterations=7", "spec.evaluation.every=3"])
    assert (job.spec.iterations, job.spec.evaluation.every) == (7, 3)
    with pytest.raises(JobFileError, match="did you mean iterations"):
        load_job(EXAMPLES / "addition.yaml", ["spec.iteration=7"])
    with pytest.raises(JobFileError, match="must look like"):
        load_job(EXAMPLES / "addition.yaml", ["spec.iterations"])


def test_a_missing_file_and_bad_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="No such file"):
        load_job(tmp_path / "absent.yaml")
    with pytest.raises(JobFileError, match="not YAML"):
        parse_job("a: [")
    with pytest.raises(JobFileError, match="exactly one RLJob"):
        parse_job("a: 1\n---\nb: 2")


def test_a_file_is_read_as_kubectl_and_the_api_server_read_it() -> None:
    text = (EXAMPLES / "addition.yaml").read_text()
    spec = parse_job(
        text.replace("learningRate: 0.0003", "learningRate: 3e-4").replace("iterations: 350", "iterations: 350.0")
    ).spec
    assert (spec.algorithm.learning_rate, spec.iterations) == (3e-4, 350)
    assert load_job(EXAMPLES / "addition.yaml", ["spec.evaluation=null"]).spec.evaluation.every == 50
    for override in ("spec.iterations='10'", "spec.suspend=1", "spec.rollout.group_size=4", "spec.algorithm.tau=.inf"):
        with pytest.raises(JobFileError):
            load_job(EXAMPLES / "addition.yaml", [override])


def test_a_status_of_another_version_is_read() -> None:
    condition = {"type": "Ready", "status": "True", "reason": "New", "lastTransitionTime": "2026-01-01T00:00:00.5Z"}
    status = RLJobStatus.model_validate({"phase": "Suspended", "unknown": 1, "conditions": [condition]})
    assert status.phase is WaitingPhase.SUSPENDED
    assert (
        status.model_dump(mode="json", by_alias=True)["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    )


def test_data_parallelism_is_what_remains() -> None:
    job = load_job(
        EXAMPLES / "addition.yaml",
        [
            "spec.hybrid.replicas=2",
            "spec.hybrid.ranksPerReplica=4",
            "spec.hybrid.trainer={tensorParallel: 2, pipelineParallel: 2}",
        ],
    )
    assert (job.spec.hybrid.world_size, job.spec.hybrid.data_parallel) == (8, 2)


def test_greedy_answers_are_of_the_distribution_at_temperature_one() -> None:
    settings = ["spec.rollout.temperature=0", "spec.algorithm.loss=rest"]
    assert load_job(EXAMPLES / "addition.yaml", settings).spec.rollout.policy_temperature == 1
    assert load_job(EXAMPLES / "addition.yaml", ["spec.rollout.temperature=0.5"]).spec.rollout.policy_temperature == 0.5


def test_every_field_is_documented() -> None:
    undocumented = [
        f"{model.__name__}.{name}"
        for model in _subclasses(SpecModel)
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert not undocumented


def _subclasses(model: type[SpecModel]) -> list[type[SpecModel]]:
    return [found for child in model.__subclasses__() for found in (child, *_subclasses(child))]
