"""The columns of `kubectl get rljobs`, and what is special about the schema of the status."""

from tandem_core.job import RLJobStatus

from tandem_operator.generate.structural import Schema, build_structural_schema

COLUMNS: list[Schema] = [
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Iteration", "type": "integer", "jsonPath": ".status.iteration"},
    {"name": "Of", "type": "integer", "jsonPath": ".spec.iterations"},
    {"name": "Version", "type": "integer", "jsonPath": ".status.weightVersion"},
    {"name": "Reward", "type": "number", "jsonPath": ".status.reward"},
    {"name": "Hybrid", "type": "string", "jsonPath": ".status.hybrid"},
    {"name": "Inference", "type": "integer", "jsonPath": ".status.inferenceReady"},
    {"name": "Accuracy", "type": "number", "jsonPath": ".status.accuracy", "priority": 1},
    {"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]

SCALE: Schema = {
    "specReplicasPath": ".spec.elastic.replicas",
    "statusReplicasPath": ".status.inferenceReplicas",
    "labelSelectorPath": ".status.inferenceSelector",
}


def build_status_schema() -> Schema:
    """The schema of the status: without defaults, which would be written into what the operator reports."""
    schema = _without_defaults(build_structural_schema(RLJobStatus))
    # A newer operator may report more than this version of the CRD names.
    schema["x-kubernetes-preserve-unknown-fields"] = True
    schema["properties"]["conditions"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    return schema


def _without_defaults(schema: Schema) -> Schema:
    kept = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in kept:
        kept["properties"] = {name: _without_defaults(field) for name, field in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = _without_defaults(kept["items"])
    return kept
