"""Random RLJobs around the boundaries of what is valid, drawn from the types themselves."""

import copy
from typing import Any

from hypothesis import strategies as st
from tandem_core.job import RLJobSpec
from tandem_operator.generate.structural import REFERENCE_PREFIX, resolve

type Place = tuple[str, ...]
"""Names of fields; after scorers the type of one."""
type Edit = tuple[Place, Any]

ALTERNATIVES = ("scratch", "reasoningGym", "dataset", "scorers")
"""Fields without which a specification is valid, or not, depending on others."""
REMOVED = ...
"""The value of a field that is left out."""
SMALL = (0, 1, 2, 3, 4, 6, 8, 32)
WORDS = ("", "b", "1.5Ti", "64 GB", "01Gi", "é", "a:b", "Https://a", "http://a", "a-", "a.b", "a\n", "64Gi\n")
ELSEWHERE = ([], {}, "x", 1, True, None)
"""Values that are mostly of another type."""
SCHEMA = RLJobSpec.model_json_schema(by_alias=True)
DEFINITIONS = SCHEMA["$defs"]

TOKENS = {"tokenizer": {"tokens": ["a", "b"]}}
CPU = {"device": "cpu", "inference": {"release": "none", "kvCacheBytes": 1_048_576}}
BASES: list[dict[str, Any]] = [
    {
        "iterations": 1,
        "model": {"path": "/m"},
        "data": {"dataset": {"path": "/d.jsonl"}},
        "rewards": {
            "scorers": [
                {"type": "exact"},
                {"type": "http", "url": "http://reward"},
                {"type": "function", "function": "a:b"},
                {"type": "code"},
            ]
        },
    },
    {
        "iterations": 1,
        "model": {"scratch": TOKENS},
        "data": {"reasoningGym": {"task": "t"}},
        "rewards": {"scorers": [{"type": "reasoning-gym"}]},
        "hybrid": CPU,
    },
    {
        "iterations": 1,
        "model": {"scratch": {"architecture": "qwen3_moe", "experts": 4, "layers": 4, **TOKENS}},
        "data": {"reasoningGym": {"task": "t"}},
        "rewards": {"scorers": [{"type": "math"}, {"type": "regex", "pattern": "a"}]},
        "hybrid": {"replicas": 2, "ranksPerReplica": 4, "trainer": {"tensorParallel": 2}},
        "algorithm": {"loss": "rest"},
        "rollout": {"completePrompts": 8, "tokensPerIteration": 32},
        "elastic": {"min": 1, "max": 4, "scaler": "external", "replicas": 2},
        "scheduling": {"gang": "kueue", "queue": "a"},
        "storage": {"kind": "postgresql", "urlSecret": "a"},
    },
]


def edits() -> st.SearchStrategy[Edit]:
    """A place in the specification and a value, mostly near a bound of it."""
    return st.sampled_from(list(_places((), SCHEMA))).flatmap(_edits_at)


def apply_edit(spec: dict[str, Any], edit: Edit) -> None:
    """Set or remove a value in `spec`; nothing where the object around it is missing and has no defaults."""
    place, value = edit
    here: Any = spec
    for key in place[:-1]:
        if isinstance(here, list):
            here = next((item for item in here if isinstance(item, dict) and item.get("type") == key), None)
        elif isinstance(here, dict):
            here = here.get(key) if key in ALTERNATIVES else here.setdefault(key, {})
    if isinstance(here, dict):
        here.pop(place[-1], None)
        if value is not REMOVED:
            here[place[-1]] = value


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """A valid specification with a few edits."""
    spec = copy.deepcopy(draw(st.sampled_from(BASES)))
    for edit in draw(st.lists(edits(), max_size=5)):
        apply_edit(spec, copy.deepcopy(edit))
    return spec


def _places(place: Place, schema: dict[str, Any]) -> Any:
    """Every field below `schema`, with its own schema."""
    for name, value in schema.get("properties", {}).items():
        field, _ = resolve(value, DEFINITIONS)
        yield (*place, name), field
        yield from _places((*place, name), field)
        items = resolve(field["items"], DEFINITIONS)[0] if field.get("type") == "array" else {}
        for tag, reference in items.get("discriminator", {}).get("mapping", {}).items():
            yield from _places((*place, name, tag), DEFINITIONS[reference.removeprefix(REFERENCE_PREFIX)])


def _edits_at(found: tuple[Place, dict[str, Any]]) -> st.SearchStrategy[Edit]:
    place, field = found
    inside, outside = _values(place, field)
    # Nine times of ten the value fits its own field: so what decides is how fields fit together.
    strange = st.sampled_from([*outside, *ELSEWHERE])
    values = st.integers(0, 9).flatmap(lambda chance: st.sampled_from(inside) if chance else strange)
    # The API server forgets null in a field that only other scorers have, the types refuse it as unknown.
    kept = values if "scorers" not in place else values.filter(lambda value: value is not None)
    return st.tuples(st.just(place), kept)


def _values(place: Place, field: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Values of a field's type, within its bounds and beyond."""
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum", field.get("exclusiveMaximum"))
    match field.get("type"):
        case "integer":
            small = [number for number in SMALL if low <= number <= high]
            return [*small, *small, low, high, float(low)], [low - 1, high + 1, low + 0.5, 1e300, str(low)]
        case "number":
            near = [bound + step for bound in (low, high) if bound is not None for step in (-1e-9, 0, 1e-9)]
            return [1, 0.5, *near], [-1, 0, 2, 10**30, 1e300, "1"]
        case "boolean":
            return [True, False], [0, "true"]
        case "string":
            length = field.get("maxLength", 10)
            words = [*field.get("enum", ()), *([field["const"]] if "const" in field else ())]
            return words or ["a", "64Gi", "/models/m", "a" * length], [*WORDS, "a" * (length + 1)]
        case "array":
            return _lists(place, field["maxItems"])
        case _:
            anything = [{}, {"a": None}, {"a": {"b": [1, None]}}]
            return ([REMOVED], [{"unknown": 1}, {}]) if "properties" in field else (anything, [])


def _lists(place: Place, most: int) -> tuple[list[Any], list[Any]]:
    if place[-1] == "scorers":
        named = [{"type": "exact", "name": f"{number}"} for number in range(most + 1)]
        two = [{"type": "exact"}, {"type": "exact", "name": "a"}]
        return [two, [*two, {"type": "math", "name": "exact"}], named[:-1]], [[], [two[0], two[0]], named]
    texts = [f"{number}" for number in range(most + 1)]
    return [["a"], ["a", "b"], ["-ep"], ["é" * 1024], texts[:-1]], [
        [],
        ["a", "a"],
        ["a", None],
        ["", "b"],
        ["a", 1],
        texts,
    ]
