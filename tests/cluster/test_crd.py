"""What a real API server makes of RLJobs: it refuses bad ones by itself, and says what to write."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tandem_core.job import RLJobStatus
from tandem_core.job.rljob import RLJobSpec
from tandem_operator.generate.rule import Rule
from tandem_operator.generate.rules import RULES
from tandem_operator.generate.validation import CHANGEABLE

from .rljob_api import Api, Object, Refused

EXAMPLES = Path(__file__).parents[2] / "examples"
INVALID = sorted(EXAMPLES.glob("invalid/*.yaml"))


@pytest.fixture(scope="module")
def dry(crd: Path) -> Iterator[Api]:
    """Where nothing is kept."""
    with Api(crd, "default") as api:
        yield api


@pytest.fixture
def api(crd: Path, namespace: str) -> Iterator[Api]:
    with Api(crd, namespace) as api:
        yield api


def refusal(dry: Api, path: Path) -> str:
    with pytest.raises(Refused) as caught:
        dry.create(yaml.safe_load(path.read_text()), dry_run=True)
    return str(caught.value)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_job_is_refused_with_what_to_write(dry: Api, path: Path) -> None:
    expected = dict(line.removeprefix("# ").split(": ", 1) for line in path.read_text().splitlines() if line[0] == "#")
    assert expected.get("kubernetes", expected["expect"]) in refusal(dry, path)


def test_every_rule_has_an_example_that_it_refuses(dry: Api) -> None:
    refusals = "\n".join(refusal(dry, path) for path in INVALID)
    assert [rule for rule in RULES if not re.search(message_pattern(rule), refusals)] == []
    assert "evaluating rule" not in refusals  # a rule that cannot be computed refuses too, in words for nobody


def message_pattern(rule: Rule) -> str:
    return "".join(
        ".+" if number % 2 else re.escape(part) for number, part in enumerate(re.split(r"\{(.+?)\}", rule.message))
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_accepted(dry: Api, path: Path) -> None:
    assert dry.create(yaml.safe_load(path.read_text()), dry_run=True)["spec"]["iterations"] > 0


JOB: Object = {
    "apiVersion": "tandem.dev/v1alpha1",
    "kind": "RLJob",
    "metadata": {"name": "job"},
    "spec": {
        "iterations": 10,
        "model": {"scratch": {"tokenizer": {"tokens": ["a", "b", "c"]}}},
        "data": {"reasoningGym": {"task": "basic_arithmetic"}},
        "rewards": {"scorers": [{"type": "reasoning-gym"}]},
        "elastic": {"min": 1, "max": 4},
        "pods": {"hybrid": {"metadata": {"labels": {"team": "a"}}, "spec": {"securityContext": {"runAsUser": None}}}},
    },
}
CHANGES: list[Object] = [
    {"seed": 1},
    {"model": {"scratch": {"layers": 3}}},
    {"model": {"scratch": {"tokenizer": {"tokens": ["b", "a", "c"]}}}},
    {"data": {"heldOut": 0.2}},
    {"rewards": {"timeoutSeconds": 1}},
    {"algorithm": {"loss": "grpo"}},
    {"warmup": {"steps": 1}},
    {"rollout": {"topP": 0.5}},
    {"hybrid": {"replicas": 2}},
    {"scheduling": {"priorityClass": "high"}},
    {"checkpoint": {"every": 3}},
    {"evaluation": {"every": 3}},
    {"storage": {"size": "1Gi"}},
    {"images": {"trainer": "example.com/trainer"}},
    {"pods": {"hybrid": {"metadata": {"labels": {"team": "b"}}}}},
    {"pods": {"hybrid": {"metadata": {"labels": {"team": None, "group": "a"}}}}},
    {"pods": {"master": {"spec": {"priorityClassName": "high"}}}},
    {"backoffLimit": 1},
    {"security": {"tls": True}},
    {"elastic": {"maxStaleness": 2}},
    {"deadlines": {"startup": 1}},
]


@pytest.fixture
def job(api: Api) -> Object:
    return api.create(copy.deepcopy(JOB))


@pytest.mark.usefixtures("job")
def test_what_pods_have_read_cannot_change(api: Api) -> None:
    for change in CHANGES:
        with pytest.raises(Refused, match="cannot change once the job exists: make a new RLJob"):
            api.edit("job", {"spec": change}, dry_run=True)
    assert {name for change in CHANGES for name in change} == {
        field.alias for field in RLJobSpec.model_fields.values() if CHANGEABLE.get(field.alias or "") != ()
    }


@pytest.mark.usefixtures("job")
def test_what_may_change_can(api: Api) -> None:
    elastic = {"min": 0, "max": 9, "targetSeconds": 1, "scaler": "external", "replicas": 3}
    deadlines = {"rollout": 1, "warmup": 1, "draining": 1, "training": 1, "publishing": 1, "loading": 1}
    change = {
        "iterations": 5,
        "suspend": True,
        "ttlSecondsAfterFinished": 60,
        "elastic": elastic,
        "deadlines": deadlines,
    }
    spec = api.edit("job", {"spec": change})["spec"]
    assert {name: spec[name] for name in change} == change | {
        "elastic": elastic | {"maxStaleness": 1},
        "deadlines": deadlines | {"startup": 600},
    }
    assert set(change) == set(CHANGEABLE)


def test_patches_of_pods_keep_null_which_removes_a_field(job: Object) -> None:
    assert job["spec"]["pods"]["hybrid"] == JOB["spec"]["pods"]["hybrid"]


@pytest.mark.usefixtures("job")
def test_scaling_is_for_jobs_that_are_scaled_from_outside(api: Api) -> None:
    with pytest.raises(Refused, match=r"elastic.replicas needs elastic.scaler: external: set it"):
        api.edit("job", {"spec": {"replicas": 2}}, part="/scale")
    api.edit("job", {"spec": {"elastic": {"scaler": "external"}}})
    api.edit("job", {"status": {"inferenceReplicas": 1, "inferenceSelector": "a=b"}}, part="/status")
    scale = api.edit("job", {"spec": {"replicas": 2}}, part="/scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 1, "selector": "a=b"})
    assert api.read("job")["spec"]["elastic"]["replicas"] == 2


@pytest.mark.usefixtures("job")
def test_the_status_is_kept_apart_and_read_back_as_it_was(api: Api) -> None:
    status = RLJobStatus.model_validate(
        {
            "phase": "Rollout",
            "iteration": 3,
            "weightVersion": 2,
            "reward": 0.5,
            "hybrid": "1/2",
            "inferenceReady": 1,
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Running", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            ],
        }
    )
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert "status" not in api.edit("job", {"status": written})
    assert api.edit("job", {"status": written}, part="/status")["status"] == written
    assert RLJobStatus.model_validate(api.read("job")["status"]) == status
    table = api.read("job", Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    columns = [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]
    assert columns == ["Name", "Phase", "Iteration", "Of", "Version", "Reward", "Hybrid", "Inference", "Age"]
    assert table["rows"][0]["cells"][:8] == ["job", "Rollout", 3, 10, 2, 0.5, "1/2", 1]


def test_it_is_found_by_its_short_name_and_among_all(dry: Api) -> None:
    found = {item["name"]: item for item in dry.request("GET", "/apis/tandem.dev/v1alpha1")["resources"]}
    assert found["rljobs"]["shortNames"] == ["rlj"]
    assert found["rljobs"]["categories"] == ["all"]
    assert set(found) == {"rljobs", "rljobs/status", "rljobs/scale"}
