"""The pydantic base of everything a user writes in an RLJob, and the types of values that Kubernetes knows."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

MOST = 2**31 - 1
"""Upper bound of whole numbers: products of two of them still fit the 64 bits of the API server's rules."""


class SpecModel(BaseModel):
    """A part of the RLJob: camelCase in YAML, unknown fields refused, immutable once read.

    Accepts and refuses what the API server does: null is as good as leaving a field out, 2.0 is a whole number, "2" is
    none. Attribute docstrings become the field descriptions of the CRD, the reference page and `kubectl explain`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        strict=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _read_as_kubernetes_does(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {name for key, field in cls.model_fields.items() for name in (key, field.alias)}
        return {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in data.items()
            if value is not None or key not in known
        }


Count = Annotated[int, Field(le=MOST)]
"""A whole number; fields add their lower bounds."""

Text = Annotated[str, Field(min_length=1, max_length=1024)]
"""A name, a path, an address."""

ObjectName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
"""Name of another Kubernetes object."""

QUANTITY = r"[1-9][0-9]{0,11}(\.[0-9]{1,3})?(k|[KMGTP]i|[MGTP])?"
"""What a Quantity looks like: the part of Kubernetes' quantities that people write."""
QUANTITY_HINT = "must be an amount of bytes such as 64Gi or 500M"


def _check_quantity(text: str) -> str:
    if not re.fullmatch(QUANTITY, text):
        raise ValueError(f"{QUANTITY_HINT}, found {text!r}")
    return text


Quantity = Annotated[str, Field(max_length=32), AfterValidator(_check_quantity)]
"""An amount of bytes, as Kubernetes writes it."""
