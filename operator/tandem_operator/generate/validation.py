"""What the API server checks beside types and bounds: RULES, and what cannot change once a job exists."""

from tandem_operator.generate.rule import add_validation, find_place
from tandem_operator.generate.rules import RULES
from tandem_operator.generate.structural import Schema

CHANGEABLE = {
    "iterations": (),
    "elastic": ("maxStaleness",),
    "deadlines": ("startup",),
    "suspend": (),
    "ttlSecondsAfterFinished": (),
}
"""Fields of the spec that may change while the job exists, each with those in it that may not. All others are in pod
templates, which Jobs never let change, or in the resolved job that its programs have read."""

TOKENS = "spec.model.scratch.tokenizer.tokens"
"""Kubernetes itself refuses repeated items of a set, however many they are."""


def add_validations(schema: Schema) -> None:
    """Put all checks into the schema of the RLJob."""
    for rule in RULES:
        more = {"messageExpression": rule.expression} if rule.expression else {}
        add_validation(find_place(schema, rule.place), rule.rule, rule.text, **more)
    for name in find_place(schema, "spec")["properties"]:
        for place in [f"{name}.{inner}" for inner in CHANGEABLE[name]] if name in CHANGEABLE else [name]:
            _forbid_changes(schema, f"spec.{place}", "self == oldSelf")
    find_place(schema, TOKENS)["x-kubernetes-list-type"] = "set"
    # Sets are equal in any order, but a token's place is its number.
    _forbid_changes(schema, TOKENS, "self.map(token, token) == oldSelf.map(token, token)")


def _forbid_changes(schema: Schema, place: str, rule: str) -> None:
    message = f"{place} cannot change once the job exists: make a new RLJob"
    add_validation(find_place(schema, place), rule, message, reason="FieldValueForbidden")
