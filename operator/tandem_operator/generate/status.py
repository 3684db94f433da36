"""What the CRD says about an RLJob's status, and the columns of `kubectl get rljobs`."""

from tandem_core.phases import Phase

from tandem_operator.generate.structural import Schema

CONDITION: Schema = {
    "type": "object",
    "description": "One aspect of the job's state, as in all of Kubernetes.",
    "required": ["type", "status"],
    "properties": {
        "type": {"type": "string"},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string"},
        "message": {"type": "string"},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "observedGeneration": {"type": "integer", "format": "int64"},
    },
}

STATUS: Schema = {
    "type": "object",
    "description": "What is going on; written by the operator.",
    # The operator may report more than this version of the CRD names.
    "x-kubernetes-preserve-unknown-fields": True,
    "properties": {
        "phase": {
            "type": "string",
            "description": f"Pending and Suspended before the job runs, then one of {', '.join(Phase)}.",
        },
        "iteration": {"type": "integer", "format": "int64", "description": "The iteration in progress; 0: warm-up."},
        "weightVersion": {"type": "integer", "format": "int64", "description": "The newest committed weights."},
        "reward": {"type": "number", "description": "Moving average of the mean reward."},
        "accuracy": {"type": "number", "description": "The newest held-out greedy accuracy."},
        "message": {"type": "string", "description": "What the job waits for, or why it failed."},
        "observedGeneration": {"type": "integer", "format": "int64"},
        "conditions": {
            "type": "array",
            "items": CONDITION,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    },
}

PRINTER_COLUMNS: list[Schema] = [
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Iteration", "type": "integer", "jsonPath": ".status.iteration"},
    {"name": "Of", "type": "integer", "jsonPath": ".spec.iterations"},
    {"name": "Reward", "type": "number", "jsonPath": ".status.reward"},
    {"name": "Accuracy", "type": "number", "jsonPath": ".status.accuracy"},
    {"name": "Version", "type": "integer", "jsonPath": ".status.weightVersion", "priority": 1},
    {"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]
