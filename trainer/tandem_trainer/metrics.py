"""The Prometheus metrics of torchrun's agent; tandem_core.metrics has their names.

What a rank measures in training reaches the master with its acknowledgements, which shows it.
"""

from prometheus_client import generate_latest
from tandem_core.metric_kinds import new_registry
from tandem_core.metrics import TrainerAgent

REGISTRY = new_registry()
PROCESSES = TrainerAgent.PROCESSES.build(REGISTRY)
HUNG_RANKS = TrainerAgent.HUNG_RANKS.build(REGISTRY)
ROUND = TrainerAgent.ROUND.build(REGISTRY)


def render_metrics() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
