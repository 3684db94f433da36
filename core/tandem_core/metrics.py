"""All metrics of Tandem, by the part that serves them.

Each part makes its own from these descriptions. The reference page, dashboards and alerts are made from them too, so a
name that is changed here is changed everywhere. Labels have few values: phases, steps, kinds of engines. Which job and
which pod a series is of, Prometheus adds when it scrapes.
"""

from tandem_core.metric_kinds import CounterDescription, Description, GaugeDescription, HistogramDescription
from tandem_core.sandbox.deployment import QUEUE_METRIC

_MOMENTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds of what takes a moment."""
_PHASES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
"""Seconds of what may take hours."""
_LENGTHS = tuple(2.0**power for power in range(18))
"""Tokens, 1 to 131072."""


class Master:
    """The rollout master: `/metrics` at port 8000, container port `http`."""

    PHASE = GaugeDescription("tandem_phase", "1 for the phase that the job is in, 0 for the others.", ("phase",))
    PHASE_STARTED = GaugeDescription("tandem_phase_started_timestamp_seconds", "When the phase began, Unix time.")
    PHASE_DEADLINE = GaugeDescription(
        "tandem_phase_deadline_seconds", "How long the phase may take (spec.deadlines); none in the final phases."
    )
    MISSING_MEMBERS = GaugeDescription(
        "tandem_missing_members", "Trainer ranks and checkpoint engines that the phase waits for."
    )
    PHASE_SECONDS = HistogramDescription(
        "tandem_phase_seconds", "How long phases took; evaluations are left out.", ("phase",), _PHASES
    )
    SWITCH_SECONDS = HistogramDescription(
        "tandem_switch_seconds",
        "How long switches took. To training: from the end of the rollouts until the trainer began. To inference: from "
        "the end of training until all engines served its weights, evaluations left out.",
        ("to",),
        _PHASES,
    )
    ITERATION = GaugeDescription("tandem_iteration", "The iteration that the job is in; 0: the warm-up.")
    ITERATIONS = GaugeDescription("tandem_iterations", "How many iterations the job is to have.")
    VERSION = GaugeDescription(
        "tandem_version", "Newest committed weight version, or the one that is being published or loaded; -1: none."
    )
    SAMPLES = CounterDescription("tandem_samples", "Answers trained on.")
    GENERATED_TOKENS = CounterDescription(
        "tandem_generated_tokens",
        "Tokens that came back from engines, those of hybrid or of inference pods; evaluations are left out.",
        ("engines",),
    )
    TOKENS_PER_SECOND = GaugeDescription("tandem_tokens_per_second", "Speed of the newest rollout phase.")
    SEGMENTS = CounterDescription(
        "tandem_segments",
        "Stretches of answers, by how they ended: stop, length and repetition end an answer; budget and aborted leave "
        "a partial one, to be continued.",
        ("end",),
    )
    ANSWER_TOKENS = HistogramDescription("tandem_answer_tokens", "Tokens of each scored answer.", (), _LENGTHS)
    ANSWER_REWARD = HistogramDescription(
        "tandem_answer_reward",
        "Reward of each scored answer: the scorers' sum, without the length reward.",
        (),
        (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.5, 2, 5, 10),  # with a bound below 0 there would be no sum
    )
    REWARD = GaugeDescription("tandem_reward", "Mean reward of the newest batch.")
    REWARD_AVERAGE = GaugeDescription("tandem_reward_average", "Moving average of the mean reward (factor 0.1).")
    ACCURACY = GaugeDescription("tandem_accuracy_ratio", "Newest greedy accuracy on held-out prompts, 0 to 1.")
    CARRIED_OVER = GaugeDescription(
        "tandem_carried_over_answers", "Unfinished answers that the newest rollout phase left to the next one."
    )
    VERSIONS_BEHIND = GaugeDescription(
        "tandem_versions_behind", "How many versions the oldest token of the newest batch is behind."
    )
    BUFFER_GROUPS = GaugeDescription(
        "tandem_replay_buffer_groups",
        "Groups of the replay buffer that are in no batch yet: open ones lack answers, complete ones have all.",
        ("state",),
    )
    ENGINES_SERVING = GaugeDescription("tandem_engines_serving", "Engines that may get prompts.")
    SCORING_SECONDS = HistogramDescription(
        "tandem_scoring_seconds",
        "From handing answers to a scorer until all of them have a score. Of a code reward, this is the sandbox.",
        ("scorer",),
        _MOMENTS,
    )
    SCORING_FAILURES = CounterDescription(
        "tandem_scoring_failures",
        "Answers that a scorer could not cope with: counted as wrong, or dropped.",
        ("scorer",),
    )
    LOSS = GaugeDescription("tandem_training_loss", "Loss of the newest iteration, mean of its updates.")
    GRADIENT_NORM = GaugeDescription("tandem_training_gradient_norm", "Norm of the gradient, mean of the updates.")
    LOGPROB_DIFFERENCE = GaugeDescription(
        "tandem_logprob_difference", "Mean |trainer - engine| of the log-probabilities of the newest batch's tokens."
    )
    LOGPROB_DIFFERENCE_MAX = GaugeDescription(
        "tandem_logprob_difference_max", "Largest |trainer - engine| of the log-probabilities of the newest batch."
    )
    DIVERGENCE = GaugeDescription(
        "tandem_policy_divergence", "Estimate of KL(engine || trainer) a token in the newest batch, in nats."
    )
    TRAINED_TOKENS = CounterDescription("tandem_trained_tokens", "Tokens that the loss was computed for.")
    TRAINING_SECONDS = CounterDescription("tandem_training_seconds", "Time in forward, backward and optimiser.")
    UTILISATION = GaugeDescription(
        "tandem_training_mfu_ratio",
        "Model FLOP utilisation of the newest iteration's training, 0 to 1: what forward and backward need, by what "
        "the devices could do (bf16 on known GPUs by their data sheet; else as fast as a large matrix product).",
    )
    PUBLISHED_BYTES = CounterDescription("tandem_weight_published_bytes", "Bytes that trainer ranks published.")
    PUBLISH_SECONDS = HistogramDescription(
        "tandem_weight_publish_seconds", "How long a trainer rank took to write and attest its weights.", (), _PHASES
    )


class CheckpointEngine:
    """The checkpoint engine of a hybrid or inference pod: `/metrics` at port 8001, container port `checkpoint`."""

    STATE = GaugeDescription("tandem_engine_state", "1 for the state that vLLM is in, 0 for the others.", ("state",))
    VERSION = GaugeDescription("tandem_engine_version", "Weight version that vLLM has; -1: none.")
    VERSION_LAG = GaugeDescription(
        "tandem_engine_version_lag",
        "How many versions vLLM's weights are behind the newest committed ones; absent while it has none.",
    )
    RESTARTS = CounterDescription(
        "tandem_engine_restarts", "Times vLLM had to be started because it crashed, hung or failed an update."
    )
    FAILURES = CounterDescription(
        "tandem_engine_failures", "Things that this checkpoint engine tried and that failed; they are tried again."
    )
    STEP_SECONDS = HistogramDescription(
        "tandem_engine_step_seconds",
        "How long parts of a switch took: start or wake vLLM, receive weights, pause, update, probe, release.",
        ("step",),
        _PHASES,
    )
    RECEIVED_BYTES = CounterDescription(
        "tandem_weight_received_bytes",
        "Bytes of loaded versions, by where they lay: own_pod (used where they are), other_pods, or replica (fetched "
        "again because the first source did not give them as attested).",
        ("source",),
    )
    RECEIVE_SECONDS = HistogramDescription(
        "tandem_weight_receive_seconds",
        "How long a version took to fetch from other pods, and to verify what was fetched.",
        ("step",),
        _PHASES,
    )


class TrainerAgent:
    """torchrun's agent in a hybrid pod: `/metrics` at port 8002, container port `metrics`."""

    PROCESSES = GaugeDescription(
        "tandem_trainer_processes", "Processes below the agent: the ranks of this pod, and what they started."
    )
    HUNG_RANKS = CounterDescription(
        "tandem_trainer_hung_ranks", "Processes of ranks that were ended because they were stopped and did nothing."
    )
    ROUND = GaugeDescription(
        "tandem_trainer_round", "How often the job's ranks met anew: each restart in place is one round more."
    )


class Operator:
    """The operator: `/metrics` at port 8080, container port `health`."""

    RECONCILE_SECONDS = HistogramDescription(
        "tandem_operator_reconcile_seconds", "How long a look at a job took.", (), _MOMENTS
    )
    RECONCILE_LAG_SECONDS = HistogramDescription(
        "tandem_operator_reconcile_lag_seconds",
        "From the moment in which a look at a job was due to its end.",
        (),
        (*_MOMENTS[3:], 120),
    )
    RECONCILE_ERRORS = CounterDescription(
        "tandem_operator_reconcile_errors", "Looks at jobs that failed, by the kind of error.", ("error",)
    )
    QUEUE_LENGTH = GaugeDescription("tandem_operator_queue_length", "Jobs for which a look is planned or due.")
    JOBS = GaugeDescription("tandem_operator_jobs", "RLJobs by phase.", ("phase",))
    SCALE_DECISIONS = CounterDescription(
        "tandem_operator_scale_decisions",
        "Decisions of the autoscaler: grow (more inference pods), drain (some get no more answers), shrink (drained "
        "ones go), keep (some that drained stay).",
        ("decision",),
    )
    API_REQUESTS = CounterDescription(
        "tandem_operator_api_requests", "Requests to the API server but for watches.", ("method", "resource")
    )
    ETCD_PROBLEMS = CounterDescription(
        "tandem_operator_etcd_problems", "Looks at jobs that could not read or write etcd."
    )
    LEADING = GaugeDescription("tandem_operator_leading", "1 in the process that holds the Lease, else 0.")


class Sandbox:
    """The code sandbox: `/metrics` at its own port with its token, or at port 8011, container port `metrics`."""

    RUNNING = GaugeDescription("tandem_sandbox_running", "Containers that run a program.")
    WAITING = GaugeDescription(QUEUE_METRIC, "Runs that wait for a container.")
    READY = GaugeDescription("tandem_sandbox_ready", "Containers that wait for a run.")
    FAILURES = CounterDescription("tandem_sandbox_failures", "Containers that the sandbox failed at.")
    SESSIONS = GaugeDescription("tandem_sandbox_sessions", "Jupyter sessions that are there.")
    VERDICTS = CounterDescription("tandem_sandbox_verdicts", "Runs, judged cases, and cells of sessions.", ("verdict",))
    REQUEST_SECONDS = HistogramDescription(
        "tandem_sandbox_request_seconds", "How long requests took.", ("path",), (*_MOMENTS[3:], 300)
    )
    REFUSED = CounterDescription("tandem_sandbox_refused", "Requests refused for overload.")


class Engine:
    """vLLM itself: `/metrics` at port 8100, container port `engine`. The names are vLLM's; these are used here."""

    RUNNING = GaugeDescription("vllm:num_requests_running", "Requests that are being computed.")
    WAITING = GaugeDescription("vllm:num_requests_waiting", "Requests that wait for room.")
    CACHE = GaugeDescription("vllm:kv_cache_usage_perc", "Share of the key-value cache that is in use, 0 to 1.")
    GENERATED_TOKENS = CounterDescription("vllm:generation_tokens", "Tokens generated.")
    PREFIX_QUERIES = CounterDescription("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache.")
    PREFIX_HITS = CounterDescription("vllm:prefix_cache_hits", "Tokens found in it.")
    PREEMPTIONS = CounterDescription("vllm:num_preemptions", "Requests pushed out for want of cache.")


PARTS: tuple[type, ...] = (Master, CheckpointEngine, Engine, TrainerAgent, Operator, Sandbox)


def list_metrics(part: type) -> list[Description]:
    """The metrics of one of PARTS, in their order."""
    return [value for value in vars(part).values() if isinstance(value, Description)]
