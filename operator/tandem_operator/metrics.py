"""Names of all metrics of the operator; dashboards and alerts are tested against them."""

from prometheus_client import Counter, Gauge, Histogram

RECONCILE_SECONDS = Histogram(
    "tandem_operator_reconcile_seconds",
    "From the begin of a reconcile to its end.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
RECONCILE_LAG_SECONDS = Histogram(
    "tandem_operator_reconcile_lag_seconds",
    "From the moment in which a reconcile was due to its end.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100),
)
RECONCILE_ERRORS = Counter("tandem_operator_reconcile_errors", "Reconciles that failed, by error.", ["error"])
QUEUE_LENGTH = Gauge("tandem_operator_queue_length", "Jobs that wait for a reconcile that is due.")
JOBS = Gauge("tandem_operator_jobs", "RLJobs by phase.", ["phase"])
API_REQUESTS = Counter(
    "tandem_operator_api_requests", "Requests to the API server but for watches.", ["method", "resource"]
)
ETCD_PROBLEMS = Counter("tandem_operator_etcd_problems", "Reconciles that could not read or write etcd.")
LEADING = Gauge("tandem_operator_leading", "1 in the process that holds the Lease, else 0.")
