"""Dashboard: how weights get from trainers to engines, and what a switch costs."""

from tandem_core.metrics import CheckpointEngine, Master

from tandem_operator.generate.monitoring.panels import (
    JOB_NAME,
    OF_JOB,
    Dashboard,
    Panel,
    Query,
    Row,
    mean,
    per_second,
    quantiles,
)

POD = "{{pod}}"

HANDOFF = Dashboard(
    "handoff",
    "Weight handoff",
    "How weights get from trainers to engines, and what a switch costs.",
    (
        Row(
            "Switches",
            (
                Panel(
                    "How long from training until all engines serve?",
                    quantiles(
                        (0.5, 0.95),
                        Master.SWITCH_SECONDS,
                        "namespace, rljob",
                        f'{OF_JOB}, to="inference"',
                        legend=JOB_NAME,
                    ),
                    "s",
                ),
                Panel(
                    "How long from the last answer until training begins?",
                    quantiles(
                        (0.5, 0.95),
                        Master.SWITCH_SECONDS,
                        "namespace, rljob",
                        f'{OF_JOB}, to="training"',
                        legend=JOB_NAME,
                    ),
                    "s",
                ),
                Panel(
                    "Which part of a switch takes the time?",
                    (Query(mean(CheckpointEngine.STEP_SECONDS, "step"), "{{step}}"),),
                    "s",
                    description="Mean seconds of each part, over all pods.",
                ),
                Panel(
                    "Which pod is the slowest?",
                    (
                        Query(
                            f"topk(10, {mean(CheckpointEngine.STEP_SECONDS, 'pod, step')})",
                            "{{pod}} {{step}}",
                        ),
                    ),
                    "s",
                    description="The ten longest parts, by pod.",
                ),
            ),
        ),
        Row(
            "Bytes",
            (
                Panel(
                    "How many bytes do the trainers publish?",
                    (Query(f"sum by (namespace, rljob) ({per_second(Master.PUBLISHED_BYTES)})", JOB_NAME),),
                    "Bps",
                ),
                Panel(
                    "How long does a rank take to publish?",
                    quantiles((0.5, 0.95), Master.PUBLISH_SECONDS),
                    "s",
                ),
                Panel(
                    "From where do engines get their weights?",
                    (Query(f"sum by (source) ({per_second(CheckpointEngine.RECEIVED_BYTES)})", "{{source}}"),),
                    "Bps",
                    "stacked",
                    description="Of its own pod a checkpoint engine copies nothing. replica: fetched again, because "
                    "the first source did not give what it had attested.",
                ),
                Panel(
                    "How long do fetching and verifying take?",
                    (Query(mean(CheckpointEngine.RECEIVE_SECONDS, "step"), "{{step}}"),),
                    "s",
                ),
            ),
        ),
        Row(
            "Engines",
            (
                Panel(
                    "Which version does each engine have?",
                    (
                        Query(f"{CheckpointEngine.VERSION.name}{{{OF_JOB}}} >= 0", POD),
                        Query(f"{Master.VERSION.name}{{{OF_JOB}}}", f"{JOB_NAME}: committed"),
                    ),
                    "none",
                ),
                Panel(
                    "Which engine is behind?",
                    (Query(f"{CheckpointEngine.VERSION_LAG.name}{{{OF_JOB}}}", POD),),
                    "none",
                    description="Versions behind the newest committed one.",
                ),
                Panel(
                    "Do checkpoint engines fail at something?",
                    (Query(f"increase({CheckpointEngine.FAILURES.series[0]}{{{OF_JOB}}}[10m])", POD),),
                    "none",
                    description="In 10 minutes. They try again; their logs say what it was.",
                ),
                Panel(
                    "Which engine had to be restarted?",
                    (Query(f"increase({CheckpointEngine.RESTARTS.series[0]}{{{OF_JOB}}}[10m])", POD),),
                    "none",
                    description="In 10 minutes, after a crash, a hang or a failed update.",
                ),
            ),
        ),
    ),
)
