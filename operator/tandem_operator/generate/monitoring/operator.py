"""Dashboard: whether the operator does its work."""

from tandem_core.metrics import Operator

from tandem_operator.generate.monitoring.panels import Dashboard, Panel, Query, Row, per_second, quantiles

_ACTIVE = f"on (instance) {Operator.LEADING.name}"
"""Chooses processes that are operators."""

OPERATOR = Dashboard(
    "operator",
    "Operator",
    "Whether the operator looks at jobs, how fast, and what stops it.",
    (
        Row(
            "Now",
            (
                Panel(
                    "Does somebody lead?",
                    (Query(f"max({Operator.LEADING.name})", "leading"),),
                    "none",
                    "number",
                    width=6,
                    description="1: an operator holds the Lease.",
                ),
                Panel(
                    "How many jobs are there?",
                    (Query(f"sum({Operator.JOBS.name})", "jobs"),),
                    "none",
                    "number",
                    width=6,
                ),
                Panel(
                    "How many have failed?",
                    (Query(f'sum({Operator.JOBS.name}{{phase="Failed"}})', "failed"),),
                    "none",
                    "number",
                    width=6,
                ),
                Panel(
                    "How many looks are planned?",
                    (Query(f"sum({Operator.QUEUE_LENGTH.name})", "jobs"),),
                    "none",
                    "number",
                    width=6,
                ),
            ),
        ),
        Row(
            "Work",
            (
                Panel(
                    "What do the jobs do?",
                    (Query(f"sum by (phase) ({Operator.JOBS.name}) > 0", "{{phase}}"),),
                    "none",
                    "stacked",
                ),
                Panel(
                    "How many looks a second?",
                    (
                        Query(f"sum(rate({Operator.RECONCILE_SECONDS.name}_count[$__rate_interval]))", "looks"),
                        Query(f"sum({per_second(Operator.RECONCILE_ERRORS, '')}) or vector(0)", "failed"),
                    ),
                ),
                Panel(
                    "How long does a look take?",
                    quantiles((0.5, 0.99), Operator.RECONCILE_SECONDS, "", ""),
                    "s",
                ),
                Panel(
                    "How late are looks?",
                    quantiles((0.5, 0.99), Operator.RECONCILE_LAG_SECONDS, "", ""),
                    "s",
                    description="From the moment in which a look was due to its end.",
                ),
                Panel(
                    "What goes wrong?",
                    (
                        Query(f"sum by (error) ({per_second(Operator.RECONCILE_ERRORS, '')})", "{{error}}"),
                        Query(f"sum({per_second(Operator.ETCD_PROBLEMS, '')})", "etcd does not answer"),
                    ),
                    description="Failures a second, by the kind of error.",
                ),
                Panel(
                    "What does the autoscaler decide?",
                    (
                        Query(
                            f"sum by (decision) (increase({Operator.SCALE_DECISIONS.series[0]}[10m]))",
                            "{{decision}}",
                        ),
                    ),
                    "none",
                    description="Decisions in 10 minutes.",
                ),
            ),
        ),
        Row(
            "Cost",
            (
                Panel(
                    "How much does it ask of the API server?",
                    (Query(f"sum by (method) ({per_second(Operator.API_REQUESTS, '')})", "{{method}}"),),
                    kind="stacked",
                    description="Requests a second, watches left out.",
                ),
                Panel(
                    "Which objects does it write and read?",
                    (Query(f"sum by (resource) ({per_second(Operator.API_REQUESTS, '')})", "{{resource}}"),),
                    kind="stacked",
                    description="Requests a second.",
                ),
                Panel(
                    "How much memory does it use?",
                    (Query(f"process_resident_memory_bytes and {_ACTIVE}", "{{instance}}"),),
                    "bytes",
                ),
                Panel(
                    "How much processor does it use?",
                    (Query(f"rate(process_cpu_seconds_total[$__rate_interval]) and {_ACTIVE}", "{{instance}}"),),
                    description="Cores.",
                ),
            ),
        ),
    ),
    chooses_job=False,
)
