"""What the operator's process remembers of a job beside what it observes. None of it has to outlive the process."""

import base64
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from tandem_core.job import RLJob
from tandem_core.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE

from tandem_operator.build import KubernetesObject
from tandem_operator.build.pods import TOKEN_FILE_NAME
from tandem_operator.certificate import make_certificate
from tandem_operator.observe.children import Child, hash_object
from tandem_operator.observe.observed import Observed
from tandem_operator.observe.pods import Pod
from tandem_operator.plan.failures import Trouble
from tandem_operator.resources import SECRET, ObjectKey


@dataclass
class JobMemory:
    """About one job, told apart from others of its name by its uid."""

    uid: str
    parsed: tuple[int, RLJob | None, str] | None = None
    """The generation that was read last, and what came of it."""
    built: tuple[tuple[int, int | None], list[KubernetesObject]] | None = None
    """The job's objects, for this generation and this number of inference pods."""
    hashes: dict[ObjectKey, tuple[KubernetesObject, str]] = field(default_factory=dict)
    """Of objects that were built."""
    token: str = ""
    """The job's bearer token, once it is known."""
    certificate: dict[str, str] = field(default_factory=dict)
    """Of a job with TLS, by file name, once it is known."""
    applied: dict[ObjectKey, tuple[str, str]] = field(default_factory=dict)
    """Hash of what was last applied, and the fingerprint that the object had then."""
    refused: dict[ObjectKey, tuple[str, str, Trouble]] = field(default_factory=dict)
    """The same of what the API server did not take for good, and its words: it is not asked again for the same."""
    access_given: bool = False
    failed_pods: frozenset[str] | None = None
    """uids of the pods that have failed; None: not looked at by this process yet."""
    counted_pods: frozenset[str] = frozenset()
    """Those of them that the status knows of."""
    scaled_at: datetime | None = None
    """When this process last changed the inference pods: the status may tell of it later."""
    status_written_at: float = 0.0
    """time.monotonic()."""


def keep_token(memory: JobMemory, observed: Observed) -> str:
    """The job's token: as it stands in its Secret, where that is there; else a new one.

    It is remembered, so that a Secret that somebody deletes or edits comes back as it was: pods have read it.
    """
    if not memory.token:
        secret = observed.own.get(ObjectKey(SECRET, f"{observed.key.name}-token"))
        memory.token = _read(secret, TOKEN_FILE_NAME) or secrets.token_urlsafe(32)
    return memory.token


def keep_certificate(memory: JobMemory, observed: Observed, job: RLJob) -> dict[str, str]:
    """The job's certificate by file name, as `keep_token` keeps the token; empty: the job has no TLS."""
    if job.spec.security.tls and not memory.certificate:
        secret = observed.own.get(ObjectKey(SECRET, f"{observed.key.name}-tls"))
        found = {name: _read(secret, name) for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)}
        memory.certificate = found if all(found.values()) else make_certificate(job)
    return memory.certificate


def hash_built(memory: JobMemory, key: ObjectKey, item: KubernetesObject) -> str:
    """The object's hash, computed once for as long as it is the same one."""
    known = memory.hashes.get(key)
    if known is None or known[0] is not item:
        known = memory.hashes[key] = (item, hash_object(item))
    return known[1]


def count_losses(memory: JobMemory, pods: tuple[Pod, ...]) -> int:
    """Pods that failed since the status was published. Those that a new process finds were counted before it."""
    failed = frozenset(pod.uid for pod in pods if pod.failed)
    if memory.failed_pods is None:
        memory.counted_pods = failed
    memory.failed_pods = failed | (memory.failed_pods or frozenset())
    return len(memory.failed_pods - memory.counted_pods)


def _read(child: Child | None, name: str) -> str:
    try:
        return base64.b64decode(child.data.get(name, ""), validate=True).decode() if child is not None else ""
    except ValueError:
        return ""
