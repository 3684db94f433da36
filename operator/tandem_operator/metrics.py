"""The operator's Prometheus metrics; tandem_core.metrics has their names."""

from tandem_core.metric_kinds import new_registry
from tandem_core.metrics import Operator

REGISTRY = new_registry()
RECONCILE_SECONDS = Operator.RECONCILE_SECONDS.build(REGISTRY)
RECONCILE_LAG_SECONDS = Operator.RECONCILE_LAG_SECONDS.build(REGISTRY)
RECONCILE_ERRORS = Operator.RECONCILE_ERRORS.build(REGISTRY)
QUEUE_LENGTH = Operator.QUEUE_LENGTH.build(REGISTRY)
JOBS = Operator.JOBS.build(REGISTRY)
SCALE_DECISIONS = Operator.SCALE_DECISIONS.build(REGISTRY)
API_REQUESTS = Operator.API_REQUESTS.build(REGISTRY)
ETCD_PROBLEMS = Operator.ETCD_PROBLEMS.build(REGISTRY)
LEADING = Operator.LEADING.build(REGISTRY)

for _decision in ("grow", "drain", "shrink", "keep"):
    SCALE_DECISIONS.labels(_decision)  # 0, not absent
