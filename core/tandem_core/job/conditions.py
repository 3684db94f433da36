"""Types and reasons of an RLJob's conditions, with what they mean and what a person can do: docs are made from them."""

from enum import StrEnum
from typing import Self


class ConditionType(StrEnum):
    """One aspect of a job's state; its condition is True, False or Unknown."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    ACCEPTED = "Accepted", "The specification can be carried out, and the job's objects have been built from it."
    READY = "Ready", "All hybrid pods and the master are ready: the job can train."
    PROGRESSING = "Progressing", "The job is being started, trained or stopped, and nothing holds it up."
    DEGRADED = "Degraded", "Something was lost or does not work; the job goes on without it, or is getting it back."
    SUSPENDED = "Suspended", "The job has given back its devices and waits for spec.suspend: false."
    COMPLETE = "Complete", "All iterations are done and the model is saved."
    FAILED = "Failed", "The job has ended for good without being done."


class Reason(StrEnum):
    """Why a condition is what it is."""

    meaning: str
    remedy: str
    """What a person can do; empty: nothing has to be done."""

    def __new__(cls, value: str, meaning: str = "", remedy: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.remedy = remedy
        return member

    # Accepted
    VALID = "Valid", "The specification can be carried out."
    WHOLE_NODE = (
        "WholeNode",
        "Accepted with a warning: engines see every GPU of their node without Kubernetes knowing.",
        "Keep other pods with GPUs off these nodes, or write hybrid.deviceAllocation: claim on a cluster with dynamic "
        "resource allocation (Kubernetes 1.34).",
    )
    INVALID_SPEC = (
        "InvalidSpec",
        "The specification cannot be carried out: a patch in spec.pods cannot be merged, for example, or a "
        "program of the job refused it (exit code 3).",
        "Read the message, delete the job, and apply a corrected one.",
    )

    # Ready, Progressing
    STARTING = "Starting", "Pods are being started."
    RUNNING = "Running", "All pods that the job needs are there and the phases follow each other."
    PODS_NOT_READY = "PodsNotReady", "Some pods of the job are not ready yet; the message names them."
    QUEUED = (
        "Queued",
        "Kueue or the gang scheduler holds the job back until there is room for all of it.",
        "Wait, or look at the queue: kubectl describe workload (Kueue), kubectl describe podgroup (others).",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "Kubernetes finds no node for a pod, or no free GPUs for its claim.",
        "The message is the scheduler's. Lower ranksPerReplica or the pods' requests, add nodes, or wait for others.",
    )
    QUOTA_EXCEEDED = (
        "QuotaExceeded",
        "A ResourceQuota or LimitRange of the namespace does not allow the job's pods or claims.",
        "kubectl describe quota shows it. Ask for more, or write smaller requests into spec.pods.",
    )
    REFUSED = (
        "Refused",
        "The API server, or an admission check of the cluster, does not take an object or a pod of the job.",
        "The message is its own. Where a name is taken, delete the other object or give the job another name.",
    )
    DELETING = "Deleting", "The job is being deleted: it saves a checkpoint, its pods end, its keys in etcd go."
    FINISHED = "Finished", "The job has ended; Complete or Failed says how."

    # Degraded, Failed
    AS_EXPECTED = "AsExpected", "Nothing is lost and nothing is wrong."
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "A container used more memory than its limit, or the node ran out of it, and it was killed.",
        "Raise its memory limit in spec.pods; for the trainer lower hybrid.trainer.tokensPerMicrobatch or set "
        "recompute; for the engine lower inference.gpuMemoryShare, kvCacheBytes or maxLength. /dev/shm counts too.",
    )
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "An image of a pod cannot be pulled.",
        "The message names it. Correct spec.images, or give the pods imagePullSecrets through spec.pods.",
    )
    CONTAINER_CONFIG_ERROR = (
        "ContainerConfigError",
        "A container cannot be created, mostly because a Secret, ConfigMap or volume it names is not there.",
        "The message names it: create it in the job's namespace.",
    )
    EVICTED = (
        "Evicted",
        "A pod was evicted, preempted, or its node drained; another takes its place.",
        "If it happens often: a higher scheduling.priorityClass, or requests that are nearer to what the pods use.",
    )
    NODE_LOST = (
        "NodeLost",
        "The node of a pod does not answer any more; the pod is replaced on another one.",
        "kubectl get nodes. Mend or remove the node.",
    )
    CONTAINER_FAILED = (
        "ContainerFailed",
        "A container ended with an error; it was started again or its pod replaced.",
        "kubectl logs --previous of the pod in the message.",
    )
    MEMBER_PROBLEM = (
        "MemberProblem",
        "A member of the job goes on without something it needs, such as room on a disk.",
        "The message says what, and what to do.",
    )
    ETCD_UNREACHABLE = (
        "EtcdUnreachable",
        "The operator cannot read the job's state in etcd, so that the status is old; the job itself may be well.",
        "Look at the etcd of this installation.",
    )
    ETCD_STATE_LOST = (
        "EtcdStateLost",
        "etcd has lost what it knew of the job: its pods are started anew, from the newest checkpoint.",
        "If nobody deleted the job's keys: look at the volumes of etcd's members.",
    )
    BACKOFF_LIMIT_EXCEEDED = (
        "BackoffLimitExceeded",
        "A pod failed more often than spec.backoffLimit allows.",
        "The message has the last failure. Mend its cause and apply the job anew; with the same checkpoint.claim it "
        "goes on where it was.",
    )
    DEADLINE_EXCEEDED = (
        "DeadlineExceeded",
        "A phase took longer than spec.deadlines allows.",
        "The message names who was missing. Look at that pod, or raise the deadline.",
    )
    JOB_FAILED = "JobFailed", "The rollout master ended the job with an error.", "The message is the master's."

    # Suspended
    SUSPENDED = "Suspended", "spec.suspend is true, and all devices are given back."
    SUSPENDING = (
        "Suspending",
        "spec.suspend is true, and the job is saving a checkpoint before it gives back its devices.",
    )
    NOT_SUSPENDED = "NotSuspended", "spec.suspend is false."

    # Complete
    ITERATIONS_DONE = "IterationsDone", "All spec.iterations are done."
    NOT_FINISHED = "NotFinished", "The job has not ended."
