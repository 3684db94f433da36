"""The pydantic base of everything a user writes in an RLJob."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class SpecModel(BaseModel):
    """A part of the RLJob: camelCase in YAML, unknown fields refused, immutable once read.

    Attribute docstrings become the field descriptions of the CRD, the reference page and `kubectl explain`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
