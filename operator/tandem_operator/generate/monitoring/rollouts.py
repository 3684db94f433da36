"""Dashboard: how answers are generated and scored."""

from tandem_core.metrics import CheckpointEngine, Engine, Master, Sandbox

from tandem_operator.generate.monitoring.panels import (
    JOB_NAME,
    OF_JOB,
    Dashboard,
    Panel,
    Query,
    Row,
    per_second,
    quantiles,
)

POD = "{{pod}}"
_FINAL = "stop|length|repetition"
_PARTIAL = "budget|aborted"


def _share(ends: str, of: str) -> str:
    """Segments that ended like `ends`, of those that ended like `of`."""
    return f"{_ended(ends)} / ({_ended(of)} > 0)"


def _ended(ends: str) -> str:
    """Segments a second that ended like this."""
    chosen = f'{OF_JOB}, end=~"{ends}"'
    return f"sum by (namespace, rljob) ({per_second(Master.SEGMENTS, chosen)})"


ROLLOUTS = Dashboard(
    "rollouts",
    "Rollouts and engines",
    "How answers are generated and scored, and how full the engines are.",
    (
        Row(
            "Answers",
            (
                Panel(
                    "How many tokens a second come back?",
                    (Query(f"sum by (engines) ({per_second(Master.GENERATED_TOKENS)})", "{{engines}} pods"),),
                    kind="stacked",
                    description="Engines tell of their tokens when an answer comes back: between two is nothing.",
                ),
                Panel(
                    "How fast was the newest rollout phase?",
                    (Query(f"{Master.TOKENS_PER_SECOND.name}{{{OF_JOB}}}", JOB_NAME),),
                    description="Tokens a second.",
                ),
                Panel(
                    "How many segments are partial?",
                    (Query(_share(_PARTIAL, f"{_FINAL}|{_PARTIAL}"), JOB_NAME),),
                    "percentunit",
                    description="They ended with the iteration's budget or with a drained engine, and are continued.",
                ),
                Panel(
                    "How many answers go in circles, or hit the length limit?",
                    (
                        Query(_share("repetition", _FINAL), f"{JOB_NAME} in circles"),
                        Query(_share("length", _FINAL), f"{JOB_NAME} too long"),
                    ),
                    "percentunit",
                ),
            ),
        ),
        Row(
            "Engines",
            (
                Panel(
                    "What do the engines do?",
                    (Query(f"sum by (state) ({CheckpointEngine.STATE.name}{{{OF_JOB}}})", "{{state}}"),),
                    "none",
                    "stacked",
                ),
                Panel(
                    "How fast does each engine generate?",
                    (Query(per_second(Engine.GENERATED_TOKENS), POD),),
                    description="Tokens a second, as vLLM counts them.",
                ),
                Panel(
                    "How much does each engine work on?",
                    (Query(f"{Engine.RUNNING.name}{{{OF_JOB}}}", POD),),
                    "none",
                    description="Requests that vLLM computes.",
                ),
                Panel(
                    "Do requests wait in engines?",
                    (Query(f"{Engine.WAITING.name}{{{OF_JOB}}}", POD),),
                    "none",
                    description="For room in vLLM. The master gives an engine no more than it has place for, so that "
                    "this should stay at 0.",
                ),
                Panel(
                    "How full is the key-value cache?",
                    (Query(f"{Engine.CACHE.name}{{{OF_JOB}}}", POD),),
                    "percentunit",
                ),
                Panel(
                    "How much of the prompts is in the prefix cache?",
                    (
                        Query(
                            f"{per_second(Engine.PREFIX_HITS)} / ({per_second(Engine.PREFIX_QUERIES)} > 0)",
                            POD,
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "Does vLLM push requests out of its cache?",
                    (Query(per_second(Engine.PREEMPTIONS), POD),),
                    description="A second; then hybrid.inference.maxConcurrentSequences is too high for the cache.",
                ),
            ),
        ),
        Row(
            "Scoring",
            (
                Panel(
                    "How long does scoring take?",
                    quantiles((0.5, 0.95), Master.SCORING_SECONDS, "scorer", legend="{{scorer}}"),
                    "s",
                    description="Of all answers that a scorer got at a time; of a code reward, this is the sandbox.",
                ),
                Panel(
                    "Which scorer fails?",
                    (Query(f"sum by (scorer) ({per_second(Master.SCORING_FAILURES)})", "{{scorer}}"),),
                    description="Answers a second that it could not cope with.",
                ),
                Panel(
                    "How long do requests to the sandboxes take?",
                    quantiles((0.5, 0.95), Sandbox.REQUEST_SECONDS, "path", "", legend="{{path}}"),
                    "s",
                    description="Of all sandbox services that Prometheus knows.",
                ),
                Panel(
                    "Do programs wait for a container?",
                    (
                        Query(f"sum({Sandbox.WAITING.name})", "wait"),
                        Query(f"sum({Sandbox.RUNNING.name})", "run"),
                        Query(f"sum({Sandbox.SESSIONS.name})", "sessions"),
                        Query(f"sum({Sandbox.READY.name})", "containers ready"),
                    ),
                    "none",
                ),
                Panel(
                    "How are programs judged?",
                    (Query(f"sum by (verdict) ({per_second(Sandbox.VERDICTS, '')})", "{{verdict}}"),),
                    kind="stacked",
                    description="Verdicts a second.",
                ),
                Panel(
                    "Do sandboxes fail, or refuse?",
                    (
                        Query(f"sum({per_second(Sandbox.FAILURES, '')})", "failed"),
                        Query(f"sum({per_second(Sandbox.REFUSED, '')})", "refused"),
                    ),
                    description="Requests a second.",
                ),
            ),
        ),
    ),
)
