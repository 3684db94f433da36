"""Specifications of jobs that no pod has to run."""

SMALL = {
    "iterations": 5,
    "model": {"scratch": {"tokenizer": {"tokens": ["0", "1", "+"]}}},
    "data": {"dataset": {"path": "/data/prompts.jsonl"}},
    "rewards": {"scorers": [{"type": "exact"}]},
    "hybrid": {"device": "cpu", "inference": {"release": "none", "kvCacheBytes": 67108864}},
    "checkpoint": {"size": "1Gi"},
    "storage": {"size": "1Gi"},
}
GPUS = {**SMALL, "hybrid": {"device": "gpu"}}
