"""One validation rule in CEL: the API server refuses a bad job at once, with a message that says what to write."""

import re
from dataclasses import dataclass

from tandem_operator.generate.structural import Schema

_VALUE = re.compile(r"\{(.+?)\}")
_VALUES = re.compile(r" \(\{[^}]+\}( x \{[^}]+\})*\)")


@dataclass(frozen=True)
class Rule:
    """One rule at one place of the RLJob."""

    place: str
    """Path of properties from the top."""
    rule: str
    """CEL; self is the value at `place`."""
    message: str
    """What is wrong and what to write. ({CEL}) stands for a value, ({CEL} x {CEL}) for two."""

    @property
    def text(self) -> str:
        """The message without values."""
        return _VALUES.sub("", self.message)

    @property
    def expression(self) -> str | None:
        """CEL that makes the message with its values; None: it has none."""
        values = _VALUE.findall(self.message)
        # With + the API server fears strings of any length and refuses the rule as too costly.
        return f"'{_VALUE.sub('%s', self.message)}'.format([{', '.join(values)}])" if values else None


def find_place(schema: Schema, place: str) -> Schema:
    """The schema of the field at `place`, such as spec.model."""
    for name in place.split("."):
        schema = schema["properties"][name]
    return schema


def add_validation(schema: Schema, rule: str, message: str, **more: str) -> None:
    """Put a rule into the schema of a field."""
    schema.setdefault("x-kubernetes-validations", []).append({"rule": rule, "message": message, **more})
