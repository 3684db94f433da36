"""From pydantic's JSON schema to a structural schema, as CustomResourceDefinitions want it.

The rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
(every node has a type, no references, no unions of types; exclusive bounds are flags as in JSON schema draft 4).
"""

import json
from typing import Any

from pydantic import BaseModel

type Schema = dict[str, Any]

REFERENCE_PREFIX = "#/$defs/"
ANYTHING = "JsonValue"
"""pydantic's definition of any JSON value."""
KEPT = (
    "type",
    "format",
    "enum",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "default",
)


def build_structural_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of `model`, with its descriptions and defaults."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def join_lines(text: str) -> str:
    """A docstring on one line."""
    return " ".join(text.split())


def resolve(schema: Schema, definitions: Schema) -> tuple[Schema, bool]:
    """`schema` without reference and without null, its own description first; and whether null was allowed."""
    nullable = False
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        nullable = len(options) < len(schema["anyOf"])
        options = _merge_enums([resolve(option, definitions)[0] for option in options])
        if len(options) != 1:
            raise NotImplementedError(f"a CRD cannot hold this union of types: {schema}")
        outer = {key: value for key, value in schema.items() if key != "anyOf"}
        schema = options[0] | outer
    if "$ref" in schema:
        inner = definitions[schema["$ref"].removeprefix(REFERENCE_PREFIX)]
        schema = inner | {key: value for key, value in schema.items() if key != "$ref"}
    return schema, nullable


def _merge_enums(options: list[Schema]) -> list[Schema]:
    """One option instead of several that are all lists of words."""
    if not all(option.get("type") == "string" and "enum" in option for option in options):
        return options
    return [{"type": "string", "enum": [word for option in options for word in option["enum"]]}]


def _convert(schema: Schema, definitions: Schema) -> Schema:
    schema, _ = resolve(schema, definitions)
    description = {"description": _describe(schema)} if "description" in schema else {}
    if "discriminator" in schema:
        return description | _convert_union(schema, definitions)
    converted = description | {key: schema[key] for key in KEPT if schema.get(key) is not None}
    if "const" in schema:
        converted["enum"] = [schema["const"]]
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if flag in schema:
            converted |= {bound: schema[flag], flag: True}
    if schema.get("type") == "integer":
        converted["format"] = "int64"
    if schema.get("type") == "array":
        converted["items"] = _convert(schema["items"], definitions)
    if "properties" in schema:
        required = schema.get("required", [])
        converted["properties"] = {
            name: _convert(value, definitions) if name in required else _convert_optional(value, definitions)
            for name, value in schema["properties"].items()
        }
        if required:
            converted["required"] = required
    elif schema.get("type") == "object":
        values = schema["additionalProperties"]
        if values.get("$ref") == REFERENCE_PREFIX + ANYTHING:
            converted["x-kubernetes-preserve-unknown-fields"] = True
        else:
            converted["additionalProperties"] = _convert(values, definitions)
    return converted


def _describe(schema: Schema) -> str:
    """The description with the default, which `kubectl explain` does not show."""
    text, default = join_lines(schema["description"]), schema.get("default")
    if default is None or default in ({}, []):
        return text
    return f"{text.removesuffix('.')}. Default: {default if isinstance(default, str) else json.dumps(default)}."


def _convert_optional(schema: Schema, definitions: Schema) -> Schema:
    """The API server fills in defaults below an object only if the object is there: so it defaults to all of them.

    {} would do as well, if rules were not tried on the default as it stands.
    """
    converted = _convert(schema, definitions)
    _, nullable = resolve(schema, definitions)
    if "properties" in converted and not nullable and "required" not in converted:
        fields = converted["properties"].items()
        converted["default"] = {name: field["default"] for name, field in fields if "default" in field}
    return converted


def _convert_union(schema: Schema, definitions: Schema) -> Schema:
    """All variants in one object: fields of some variants only are optional, without defaults, and tied by rules."""
    tag = schema["discriminator"]["propertyName"]
    names = list(schema["discriminator"]["mapping"])
    variants = {
        name: _convert({"$ref": reference}, definitions)
        for name, reference in schema["discriminator"]["mapping"].items()
    }
    described = " ".join(f"{name}: {variant['description']}" for name, variant in variants.items())
    properties: Schema = {tag: {"description": described, "type": "string", "enum": names}}
    rules = []
    for name in dict.fromkeys(name for variant in variants.values() for name in variant["properties"]):
        if name == tag:
            continue
        owners = [owner for owner, variant in variants.items() if name in variant["properties"]]
        field = dict(variants[owners[0]]["properties"][name])
        if len(owners) < len(variants):
            field.pop("default", None)
            field["description"] = f"For {', '.join(owners)}: {field['description']}"
            rules.append(_build_ownership_rule(tag, name, owners, variants))
        properties[name] = field
    return {"type": "object", "properties": properties, "required": [tag], "x-kubernetes-validations": rules}


def _build_ownership_rule(tag: str, name: str, owners: list[str], variants: Schema) -> Schema:
    listed = ", ".join(f"'{owner}'" for owner in owners)
    required = name in variants[owners[0]]["required"]
    return {
        "rule": f"has(self.{name}) == (self.{tag} in [{listed}])"
        if required
        else f"!has(self.{name}) || self.{tag} in [{listed}]",
        "message": f"{name} {'is required for' if required else 'goes only with'} {tag}: {' or '.join(owners)}"
        + (", and goes with no other" if required else ""),
    }
