"""Dashboard: one job's learning, and where its time goes."""

from tandem_core.metrics import Master, TrainerAgent

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


def _gauge(name: str, legend: str = JOB_NAME) -> Query:
    return Query(f"{name}{{{OF_JOB}}}", legend)


JOB = Dashboard(
    "job",
    "One job",
    "Whether a job learns, whether its training is sound, and where its time goes.",
    (
        Row(
            "Now",
            (
                Panel("Which iteration is it in?", (_gauge(Master.ITERATION.name),), "none", "number", width=6),
                Panel(
                    "Which phase is it in?",
                    (Query(f"{Master.PHASE.name}{{{OF_JOB}}} == 1", "{{phase}}"),),
                    "none",
                    "number",
                    width=6,
                ),
                Panel(
                    "How much of the phase's deadline is used?",
                    (
                        Query(
                            f"(time() - {Master.PHASE_STARTED.name}{{{OF_JOB}}}) "
                            f"/ {Master.PHASE_DEADLINE.name}{{{OF_JOB}}}",
                            JOB_NAME,
                        ),
                    ),
                    "percentunit",
                    "number",
                    width=6,
                ),
                Panel(
                    "How many answers were trained on?", (_gauge(Master.SAMPLES.series[0]),), "short", "number", width=6
                ),
            ),
        ),
        Row(
            "Learning",
            (
                Panel(
                    "Does it learn?",
                    (
                        _gauge(Master.REWARD.name, "reward"),
                        _gauge(Master.REWARD_AVERAGE.name, "moving average"),
                        _gauge(Master.ACCURACY.name, "held-out accuracy"),
                    ),
                    "none",
                ),
                Panel(
                    "How are rewards distributed?",
                    quantiles((0.1, 0.5, 0.9), Master.ANSWER_REWARD),
                    "none",
                    description="10, 50 and 90 % of the answers have at most this reward.",
                ),
                Panel(
                    "How long are the answers?",
                    quantiles((0.5, 0.9, 0.99), Master.ANSWER_TOKENS),
                    description="Tokens that 50, 90 and 99 % of the answers have at most.",
                ),
                Panel(
                    "How do answers end?",
                    (Query(f"sum by (end) ({per_second(Master.SEGMENTS)})", "{{end}}"),),
                    kind="stacked",
                    description="Segments a second. budget and aborted leave partial answers, which are continued.",
                ),
            ),
        ),
        Row(
            "Training",
            (
                Panel("Does the loss behave?", (_gauge(Master.LOSS.name, "loss"),), "none"),
                Panel("Does the gradient explode?", (_gauge(Master.GRADIENT_NORM.name, "norm"),), "none"),
                Panel(
                    "Do trainer and engines agree?",
                    (
                        _gauge(Master.LOGPROB_DIFFERENCE.name, "mean difference"),
                        _gauge(Master.LOGPROB_DIFFERENCE_MAX.name, "largest difference"),
                        _gauge(Master.DIVERGENCE.name, "KL a token"),
                    ),
                    "none",
                    description="Of the log-probabilities of the same tokens.",
                ),
                Panel(
                    "How stale is what it trains on?", (_gauge(Master.VERSIONS_BEHIND.name, "versions behind"),), "none"
                ),
                Panel(
                    "How fast is the training?",
                    (
                        Query(
                            f"{per_second(Master.TRAINED_TOKENS)} / ({per_second(Master.TRAINING_SECONDS)} > 0)",
                            "tokens/s while training",
                        ),
                    ),
                ),
                Panel(
                    "How well does training use the devices?",
                    (_gauge(Master.UTILISATION.name, "model FLOP utilisation"),),
                    "percentunit",
                ),
            ),
        ),
        Row(
            "Ranks",
            (
                Panel(
                    "Do ranks restart in place?",
                    (Query(f"max by (namespace, rljob) ({TrainerAgent.ROUND.name}{{{OF_JOB}}})", JOB_NAME),),
                    "none",
                    description="Rounds of their rendezvous: each restart is one more.",
                ),
                Panel(
                    "Do ranks hang, or run?",
                    (
                        Query(f"sum by (pod) ({TrainerAgent.PROCESSES.name}{{{OF_JOB}}})", "{{pod}}: processes"),
                        Query(
                            f"sum by (pod) (increase({TrainerAgent.HUNG_RANKS.series[0]}{{{OF_JOB}}}[10m]))",
                            "{{pod}}: ended in 10 minutes because they hung",
                        ),
                    ),
                    "none",
                ),
            ),
        ),
        Row(
            "Time",
            (
                Panel(
                    "Where do the seconds go?",
                    (
                        Query(
                            f"sum by (phase) (rate({Master.PHASE_SECONDS.name}_sum{{{OF_JOB}}}[$__rate_interval]))",
                            "{{phase}}",
                        ),
                    ),
                    "percentunit",
                    "stacked",
                    description="Seconds of each phase in a second.",
                ),
                Panel(
                    "How long does each phase take?",
                    (Query(mean(Master.PHASE_SECONDS, "phase"), "{{phase}}"),),
                    "s",
                    description="Mean of those that ended.",
                ),
                Panel(
                    "How long do the switches take?",
                    (Query(mean(Master.SWITCH_SECONDS, "to"), "to {{to}}"),),
                    "s",
                    description="The dashboard Weight handoff has their parts.",
                ),
                Panel(
                    "What waits in the replay buffer?",
                    (
                        Query(f"{Master.BUFFER_GROUPS.name}{{{OF_JOB}}}", "{{state}} groups"),
                        _gauge(Master.CARRIED_OVER.name, "answers carried over"),
                    ),
                    "none",
                ),
            ),
        ),
    ),
)
