"""The CRD and the reference page that are made from the RLJob types."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel
from tandem_core.job import RLJobSpec, load_job
from tandem_core.job.conditions import ConditionType, Reason
from tandem_core.job.rewards import RewardSpec
from tandem_core.job.schema import SpecModel
from tandem_operator.generate.__main__ import FILES, main
from tandem_operator.generate.crd import build_crd, render_crd
from tandem_operator.generate.reference import render_reference
from tandem_operator.generate.rule import Rule
from tandem_operator.generate.structural import build_structural_schema
from tandem_operator.generate.troubleshooting import render_troubleshooting

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def crd_schema() -> dict[str, Any]:
    return build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield place, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{place}.{name}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from nodes(schema[name], f"{place}[]")


def test_generated_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--root", str(ROOT)]) == 0, capsys.readouterr().err


def test_check_names_a_stale_file_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    assert main(["--check", *root]) == 1
    assert main(root) == 0
    assert main(["--check", *root]) == 0
    capsys.readouterr()
    (tmp_path / "helm/tandem/files/crd.yaml").write_text("old")
    assert main(["--check", *root]) == 1
    assert "helm/tandem/files/crd.yaml is out of date" in capsys.readouterr().err
    assert (tmp_path / "helm/tandem/files/crd.yaml").read_text() == "old"
    assert set(FILES) >= {"helm/tandem/files/crd.yaml", "docs/reference/rljob.md", "docs/troubleshooting.md"}


def test_kubernetes_knows_every_field_of_the_crd() -> None:
    kubernetes_validate.validate(yaml.safe_load(render_crd()), "1.36", strict=True)


def test_the_schema_is_structural() -> None:
    for place, schema in nodes(crd_schema()):
        assert isinstance(schema.get("type"), str), place
        assert not {"$ref", "anyOf", "oneOf", "const", "title"} & set(schema), place
        assert not ("properties" in schema and "additionalProperties" in schema), place
        assert isinstance(schema.get("exclusiveMinimum", True), bool), place
        if schema["type"] == "object":
            kinds = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"}
            assert kinds & set(schema) or place == ".metadata", place


def test_every_field_is_described() -> None:
    for place, schema in nodes(crd_schema()["properties"]["spec"], "spec"):
        if not place.endswith("[]"):
            assert schema.get("description"), place


def fields(model: type[BaseModel]) -> Iterator[str]:
    """Names of all fields of `model` and of the models in it."""
    for name, child in nodes(build_structural_schema(model)):
        if name and not name.endswith("[]"):
            yield child and name.rpartition(".")[2]


def test_every_field_stands_in_the_reference() -> None:
    page = render_reference()
    missing = {name for name in fields(RLJobSpec) if f"`{name}`" not in page}
    assert not missing


def test_links_in_the_reference_lead_to_its_sections() -> None:
    lines = render_reference().splitlines()
    headings = {line[3:] for line in lines if line.startswith("## ")}
    anchors = {"".join(c for c in name.lower().replace(" ", "-") if c.isalnum() or c in "-_") for name in headings}
    linked = {part.partition(")")[0] for line in lines for part in line.split("(#")[1:]}
    assert linked <= anchors
    assert len(linked) > 15


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_fits_the_schema(path: Path) -> None:
    jsonschema.Draft4Validator(crd_schema()).validate(yaml.safe_load(path.read_text()))
    assert load_job(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "less than the minimum"),
        ({"iterations": "many"}, "is not of type 'integer'"),
        ({"algorithm": {"loss": "ppo"}}, "is not one of"),
        ({"warmup": {"learningRate": 0}}, "less than or equal to the minimum"),
        ({"rewards": {"scorers": []}}, "non-empty|too short"),
    ],
)
def test_the_schema_refuses_what_the_types_refuse(change: dict[str, Any], message: str) -> None:
    job = yaml.safe_load((EXAMPLES / "addition.yaml").read_text())
    job["spec"] |= change
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.Draft4Validator(crd_schema()).validate(job)


def test_defaults_are_those_of_the_types() -> None:
    schema = crd_schema()["properties"]["spec"]["properties"]
    assert schema["rollout"]["default"]["repetition"] == {"maxPatternTokens": 0, "minPatternTokens": 1, "repeats": 8}
    assert schema["rollout"]["properties"]["groupSize"]["default"] == 8
    assert schema["algorithm"]["properties"]["learningRate"]["default"] == 1e-6
    assert "default" not in schema["model"]
    assert "default" not in schema["model"]["properties"]["scratch"]


def test_variants_of_a_union_are_told_apart_by_rules() -> None:
    item = build_structural_schema(RewardSpec)["properties"]["scorers"]["items"]
    assert set(item["properties"]["type"]["enum"]) >= {"math", "exact", "regex", "http", "function", "reasoning-gym"}
    assert item["properties"]["weight"]["default"] == 1.0
    assert "default" not in item["properties"]["batchSize"]
    rules = [rule["rule"] for rule in item["x-kubernetes-validations"]]
    assert "has(self.url) == (self.type in ['http'])" in rules
    assert "!has(self.batchSize) || self.type in ['http']" in rules


def test_a_union_that_a_crd_cannot_hold_is_refused() -> None:
    class Both(SpecModel):
        value: int | str = 0

    with pytest.raises(NotImplementedError, match="union"):
        build_structural_schema(Both)


def test_every_condition_and_reason_is_explained() -> None:
    page = render_troubleshooting()
    assert all(kind in page and kind.meaning in page for kind in ConditionType)
    assert all(reason.meaning in page and reason.remedy in page and reason.meaning for reason in Reason)


def test_a_message_can_name_the_values_that_do_not_fit() -> None:
    rule = Rule(
        "spec.elastic", "self.min <= self.max", "min ({self.min}) is above max ({self.max} x {self.min}): lower it"
    )
    assert rule.text == "min is above max: lower it"
    assert rule.expression == "'min (%s) is above max (%s x %s): lower it'.format([self.min, self.max, self.min])"
    assert Rule("spec", "true", "a text").expression is None
