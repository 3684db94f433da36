"""From Kubernetes' objects to facts. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from tandem_core.errors import TandemError
from tandem_core.job import RLJob, RLJobStatus
from tandem_core.job.load import check_job
from tandem_operator.build.names import COMPONENT_LABEL, JOB_LABEL
from tandem_operator.build.pods import INDEX_ANNOTATION
from tandem_operator.plan.failures import classify_pod

from tandem_local.inspection.facts import ContainerFacts, EventFacts, JobFacts, PodFacts
from tandem_local.kubernetes_values import KubernetesObject

_SECRET_FIELDS = (("secret", "secretName"), ("secret", "name"), ("secretKeyRef", "name"), ("secretRef", "name"))
"""Where pods name Secrets: the field, and the field in it with the name."""


def parse_rljob(body: KubernetesObject) -> JobFacts:
    """What the object itself tells."""
    metadata = body["metadata"]
    return JobFacts(
        name=metadata["name"],
        place=f"namespace {metadata['namespace']}",
        status=RLJobStatus.model_validate(body.get("status", {})),
        generation=metadata.get("generation", 0),
        created_at=parse_time(metadata["creationTimestamp"]),
        deleting="deletionTimestamp" in metadata,
        job=_parse_job(body),
    )


def parse_pod(body: KubernetesObject) -> PodFacts:
    """A pod of a job."""
    metadata, status = body["metadata"], body.get("status", {})
    component = metadata.get("labels", {}).get(COMPONENT_LABEL, "")
    index = metadata.get("annotations", {}).get(INDEX_ANNOTATION)
    job = metadata.get("labels", {}).get(JOB_LABEL, "")
    conditions = {item["type"]: item["status"] for item in status.get("conditions", [])}
    containers = (*status.get("initContainerStatuses", []), *status.get("containerStatuses", []))
    return PodFacts(
        name=f"{job}-{component}-{index}" if index is not None else metadata["name"],
        object_name=metadata["name"],
        component=component,
        state="Terminating" if "deletionTimestamp" in metadata else status.get("phase", "Pending"),
        ready=conditions.get("Ready") == "True",
        node=body["spec"].get("nodeName", ""),
        containers=tuple(_parse_container(item) for item in containers),
        troubles=tuple(trouble.message for trouble in classify_pod(body) if trouble.ended_at is None),
    )


def parse_events(bodies: Sequence[KubernetesObject], job: str, objects: Sequence[KubernetesObject]) -> list[EventFacts]:
    """The Events of the job and of `objects`, the oldest first."""
    own = {("RLJob", job), *((item["kind"], item["metadata"]["name"]) for item in objects)}
    found = []
    for body in bodies:
        about = body.get("involvedObject", {})
        if (about.get("kind"), about.get("name")) in own:
            series = body.get("series") or {}
            at = series.get("lastObservedTime") or body.get("lastTimestamp") or body.get("eventTime")
            found.append(
                EventFacts(
                    at=parse_time(at or body["metadata"]["creationTimestamp"]),
                    warning=body.get("type") == "Warning",
                    about=f"{about['kind'].lower()}/{about['name']}",
                    reason=body.get("reason", ""),
                    message=body.get("message", ""),
                    count=series.get("count") or body.get("count") or 1,
                )
            )
    return sorted(found, key=lambda event: event.at)


def select_containers(pods: Sequence[PodFacts], target: str | None, job: str) -> list[tuple[PodFacts, str]]:
    """Pods and containers that POD[/CONTAINER] names; a beginning of a pod's name is enough, with or without the job's
    before it. Raises TandemError that lists those there are."""
    everything = [(pod, container.name) for pod in pods for container in pod.containers]
    if target is None:
        return everything
    wanted, _, container = target.partition("/")
    names = (wanted, f"{job}-{wanted}")
    exact = [pod for pod in pods if pod.name in names or pod.object_name in names]
    chosen = exact or [pod for pod in pods if pod.object_name.startswith(names)]
    found = [(pod, name) for pod, name in everything if pod in chosen and container in ("", name)]
    if not found:
        known = ", ".join(f"{pod.object_name}/{name}" for pod, name in everything) or "none yet"
        raise TandemError(f"{job} has no container {target}; there are: {known}")
    return found


def find_secret_names(pods: Sequence[KubernetesObject]) -> set[str]:
    """Names of the Secrets that pods mount or take variables from."""
    found: set[str] = set()
    for value in _walk(list(pods)):
        for key, name_key in _SECRET_FIELDS:
            part = value.get(key)
            if isinstance(part, dict) and isinstance(part.get(name_key), str):
                found.add(part[name_key])
    return found


def parse_time(text: str) -> float:
    """Unix time in seconds of a time as Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()


def _parse_job(body: KubernetesObject) -> RLJob | None:
    """None: another version of Tandem made it."""
    metadata = {key: body["metadata"][key] for key in ("name", "namespace", "uid") if key in body["metadata"]}
    try:
        return check_job({**{key: body[key] for key in ("apiVersion", "kind", "spec")}, "metadata": metadata})
    except TandemError:
        return None


def _parse_container(status: KubernetesObject) -> ContainerFacts:
    ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
    wrong = ended.get("exitCode", 0) != 0
    words = (ended.get("message") or "").strip().splitlines()
    last = f"{ended.get('reason', 'Error')}, exit code {ended['exitCode']}" if wrong else ""
    return ContainerFacts(
        name=status["name"],
        state=_describe_state(status.get("state", {})),
        ready=status.get("ready", False),
        restarts=status.get("restartCount", 0),
        last_end=f"{last}: {words[-1]}" if last and words else last,
    )


def _describe_state(state: KubernetesObject) -> str:
    if "running" in state:
        return "running"
    if "terminated" in state:
        ended = state["terminated"]
        return "completed" if ended.get("exitCode") == 0 else f"ended with exit code {ended.get('exitCode')}"
    return str(state.get("waiting", {}).get("reason", "waiting"))


def _walk(value: object) -> Iterator[KubernetesObject]:
    """All objects in `value`."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)
