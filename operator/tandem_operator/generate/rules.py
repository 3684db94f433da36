"""Validation rules that a schema cannot say, in CEL: the API server refuses a bad job at once."""

from dataclasses import dataclass

from tandem_operator.generate.structural import Schema

CHANGEABLE = frozenset({"suspend", "elastic", "ttlSecondsAfterFinished", "iterations", "deadlines"})
"""Fields of the spec that may change while the job exists. All others are in pod templates or in the resolved job that
its programs have read."""


@dataclass(frozen=True)
class Rule:
    """One rule at one place of the RLJob."""

    place: tuple[str, ...]
    """Path of properties from the top."""
    rule: str
    """CEL; self is the value at `place`."""
    message: str


RULES = (
    Rule(
        ("spec", "model"),
        "[has(self.path), has(self.hub), has(self.scratch)].exists_one(given, given)",
        "model needs exactly one of path, hub and scratch",
    ),
    Rule(
        ("spec", "model"),
        "!has(self.revision) || has(self.hub)",
        "model.revision goes with model.hub: add hub, or remove revision",
    ),
    Rule(
        ("spec", "data"),
        "has(self.reasoningGym) != has(self.dataset)",
        "data needs exactly one of reasoningGym and dataset",
    ),
    Rule(
        ("spec", "storage"),
        "(self.kind == 'postgresql') == has(self.urlSecret)",
        "storage.urlSecret goes with storage.kind: postgresql; set both, or neither",
    ),
    Rule(
        ("spec", "elastic"),
        "self.min <= self.max",
        "elastic.min must not exceed elastic.max",
    ),
)


def add_rules(schema: Schema) -> None:
    """Put RULES, and the immutability of all but CHANGEABLE fields of the spec, into the schema of the RLJob."""
    for rule in RULES:
        place = schema
        for name in rule.place:
            place = place["properties"][name]
        _add(place, rule.rule, rule.message)
    for name, field in schema["properties"]["spec"]["properties"].items():
        if name not in CHANGEABLE:
            _add(field, "self == oldSelf", f"spec.{name} cannot change once the job exists: make a new RLJob")


def _add(schema: Schema, rule: str, message: str) -> None:
    schema.setdefault("x-kubernetes-validations", []).append({"rule": rule, "message": message})
