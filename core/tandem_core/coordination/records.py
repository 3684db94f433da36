"""What stands in etcd under a job's prefix: small, typed, versioned values."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from tandem_core.job.operations import DeadlineSpec
from tandem_core.phases import Phase


class Record(BaseModel):
    """A value in etcd. Readers ignore fields they do not know, so that versions of Tandem can meet."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: int = 1


class Role(StrEnum):
    """What a member of the job does."""

    TRAINER = "trainer"
    SIDECAR = "sidecar"
    INFERENCE = "inference"
    MASTER = "master"


class EngineState(StrEnum):
    """What a vLLM engine is doing."""

    STARTING = "starting"
    IDLE = "idle"
    """Running, but with no committed weights, or paused."""
    SERVING = "serving"
    RELEASED = "released"
    """Asleep or ended: the devices are free for training."""
    FAILED = "failed"


class EngineStatus(Record):
    """An engine as its checkpoint engine sees it."""

    url: str
    """http://address:port of vLLM."""
    state: EngineState
    version: int = -1
    """The weight version it serves; -1: none."""
    restarts: int = 0
    max_concurrent_sequences: int = 0


class Member(Record):
    """members/<role>/<name>, leased: gone a few seconds after its process."""

    name: str
    """Trainer ranks: the rank, "3"; others: the pod's name."""
    role: Role
    pod: str
    url: str = ""
    """http://address:port of the member's own HTTP API; empty: it has none."""
    incarnation: str
    """Differs each time the process starts."""
    started_at: float
    """Unix time in seconds."""
    engine: EngineStatus | None = None
    """For sidecars and inference pods."""
    problem: str = ""
    """Not empty: what it waits for or goes on without, such as room on a disk, and what a person can do."""


class PhaseRecord(Record):
    """phase: what the job is doing; written by the master under its fencing token."""

    iteration: int
    phase: Phase
    version: int
    """The weight version to be published or loaded in Publishing and Loading, else the committed one; -1: none."""
    token: int
    """Fencing token of the master that wrote it."""
    started_at: float
    """Unix time in seconds."""
    attempt: int = 0
    """For Publishing and Loading: how often no engine could load the version as it had been published."""
    reason: str = ""
    """For Failed: why."""
    stopped: bool = False
    """For Done: the job was asked to stop before its last iteration, and may be resumed."""


class Activity(Record):
    """A stretch of work of one pod, for the timeline. Times are Unix seconds."""

    name: str
    started_at: float
    ended_at: float


class Ack(Record):
    """acks/<iteration>/<phase>/<member>: this member has done its part of the phase."""

    member: str
    """role-name, such as trainer-0 or sidecar-addition-hybrid-0."""
    iteration: int
    phase: Phase
    error: str = ""
    """Not empty: the member could not do its part, and why."""
    damaged: bool = False
    """Whether that is because the version's bytes are not what its ranks attested: it has to be published again."""
    activities: tuple[Activity, ...] = ()
    measurements: dict[str, float] = {}
    """Named numbers with units in their names: loss, gradient_norm, free_device_bytes, load_seconds."""


class Control(Record):
    """control: what the operator, or a person, asks of the job."""

    stop: bool = False
    """Save a checkpoint and end; the job can be resumed."""
    reason: str = ""
    inference_pods: int | None = None
    """How many inference pods there are to be, within spec.elastic; None: as few as it allows."""
    iterations: int | None = None
    """spec.iterations as it is now; taken up when the next phase begins. None: as when the job began."""
    deadlines: DeadlineSpec | None = None
    """spec.deadlines as they are now; taken up when the next phase begins. None: as when the job began."""
    draining: tuple[str, ...] = ()
    """Inference pods that are about to go: they get no new answers, and hand back what they work on."""
    pods_wait: bool = False
    """Whether pods wait for devices, a queue or a quota: meanwhile no deadline for their members runs."""


class EngineSpeed(Record):
    """How fast the engines of one kind were in the newest rollout phase."""

    serving: int = 0
    """Engines that may get answers now; those that drain are not among them."""
    tokens_per_second_per_answer: float = 0.0
    """Of an answer at work; 0: nothing is known."""
    answers_per_engine: float = 0.0
    """At work in each engine when it was fullest: the last long answers do not make an engine slower."""

    @property
    def tokens_per_second(self) -> float:
        """Of one engine that has enough to do."""
        return self.tokens_per_second_per_answer * self.answers_per_engine


class Load(Record):
    """load: what the autoscaler decides by; written by the master."""

    phase: Phase
    outstanding_tokens: float
    """Expected tokens still to generate in this rollout phase; 0 in the others."""
    phase_tokens: float = 0.0
    """Expected tokens of this whole rollout phase: those that are generated, and the outstanding ones."""
    hybrid: EngineSpeed = EngineSpeed()
    """Engines of hybrid pods."""
    inference: EngineSpeed = EngineSpeed()
    """Engines of inference pods."""
    draining: dict[str, int] = {}
    """Answers that are still at each pod of Control.draining."""
    measured_at: float


class Summary(Record):
    """summary: what goes into the job's status and the live view; written by the master."""

    phase: Phase
    iteration: int
    iterations: int
    version: int
    samples: int = 0
    """Answers trained on so far."""
    reward: float | None = None
    """Mean reward of the last iteration."""
    reward_average: float | None = None
    """Moving average of the mean reward (factor 0.1)."""
    accuracy_before: float | None = None
    """Held-out greedy accuracy before the first iteration."""
    accuracy: float | None = None
    """The newest held-out greedy accuracy."""
    loss: float | None = None
    tokens_per_second: float | None = None
    """Generated in the last rollout phase."""
    response_tokens: float | None = None
    """Mean length of the last iteration's answers."""
    logprob_difference: float | None = None
    """Mean absolute difference between the engine's and the trainer's log-probabilities."""
    engines_serving: int = 0
    carried_over: int = 0
    """Unfinished answers waiting for the next iteration."""
    inference_tokens: int = 0
    """Tokens of the last iteration that inference pods generated, those of the training before included."""
    versions_behind: int = 0
    """How many versions the oldest token of the last batch is behind: answers that were carried over, or made while
    others trained."""
    phase_seconds: dict[Phase, float] = {}
    """Sum of each phase's seconds so far."""
    train_to_infer_seconds: float | None = None
    """From the end of the newest training until all engines served its weights, evaluation apart."""
    infer_to_train_seconds: float | None = None
    """From the end of the newest rollout until training began."""
    message: str = ""
    """How far a phase has come that lasts, or whom it waits for; in the end, why the job failed."""
    problem: str = ""
    """What is not as it should be, though the job goes on: no room on a disk, no engine that serves."""
    updated_at: float = 0.0
