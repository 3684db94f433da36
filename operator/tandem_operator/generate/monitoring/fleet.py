"""Dashboard: all jobs at a glance."""

from tandem_core.metrics import CheckpointEngine, Master
from tandem_core.phases import Phase

from tandem_operator.generate.monitoring.panels import JOB_NAME, OF_JOB, Dashboard, Panel, Query, Row, per_second

_FINAL = f"{Phase.DONE}|{Phase.FAILED}"
_SECONDS = f"rate({Master.PHASE_SECONDS.name}_sum{{{OF_JOB}}}[$__rate_interval])"

FLEET = Dashboard(
    "fleet",
    "Fleet",
    "All RLJobs: who runs, who learns, who is stuck.",
    (
        Row(
            "Now",
            (
                Panel(
                    "How many jobs run?",
                    (Query(f'count({Master.PHASE.name}{{{OF_JOB}, phase!~"{_FINAL}"}} == 1)', "jobs"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "How many engines serve?",
                    (Query(f"sum({Master.ENGINES_SERVING.name}{{{OF_JOB}}})", "engines"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "How many tokens a second are generated?",
                    (Query(f"sum({per_second(Master.GENERATED_TOKENS)})", "tokens/s"),),
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Does an alert fire?",
                    (Query('count(ALERTS{alertname=~"Tandem.*", alertstate="firing"}) or vector(0)', "alerts"),),
                    kind="number",
                    width=4,
                ),
                Panel(
                    "How often did engines restart in the last hour?",
                    (Query(f"sum(increase({CheckpointEngine.RESTARTS.series[0]}{{{OF_JOB}}}[1h]))", "restarts"),),
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Which phase is each job in?",
                    (Query(f"{Master.PHASE.name}{{{OF_JOB}}} == 1", f"{JOB_NAME}: {{{{phase}}}}"),),
                    kind="bars",
                    unit="none",
                ),
                Panel(
                    "How far is each job?",
                    (
                        Query(
                            f"{Master.ITERATION.name}{{{OF_JOB}}} / {Master.ITERATIONS.name}{{{OF_JOB}}}",
                            JOB_NAME,
                        ),
                    ),
                    kind="bars",
                    unit="percentunit",
                    description="Iterations begun, of all that the job is to have.",
                ),
            ),
        ),
        Row(
            "Progress",
            (
                Panel(
                    "Do the jobs learn?",
                    (Query(f"{Master.REWARD_AVERAGE.name}{{{OF_JOB}}}", JOB_NAME),),
                    unit="none",
                    description="Moving average of the mean reward.",
                ),
                Panel(
                    "How fast does each job generate?",
                    (Query(f"sum by (namespace, rljob) ({per_second(Master.GENERATED_TOKENS)})", JOB_NAME),),
                    description="Tokens a second.",
                ),
                Panel(
                    "What do the jobs spend their time on?",
                    (Query(f"sum by (phase) ({_SECONDS}) / scalar(sum({_SECONDS}))", "{{phase}}"),),
                    kind="stacked",
                    unit="percentunit",
                    description="Share of each phase in the seconds of all jobs. What is neither Rollout nor Training "
                    "is the price of sharing devices.",
                ),
                Panel(
                    "Does a job wait for members?",
                    (Query(f"{Master.MISSING_MEMBERS.name}{{{OF_JOB}}}", JOB_NAME),),
                    description="Ranks and checkpoint engines that have not answered in the phase. For moments that is "
                    "how phases work.",
                ),
            ),
        ),
    ),
)
