"""All objects of all jobs, as the watches, and the answers to our own writes, last told of them."""

from collections import defaultdict
from collections.abc import Iterator

from tandem_operator.build import KubernetesObject
from tandem_operator.build.names import JOB_LABEL
from tandem_operator.observe.children import Child, parse_child
from tandem_operator.observe.pods import Pod, parse_pod
from tandem_operator.plan.failures import Trouble, classify_refusal
from tandem_operator.resources import POD, RLJOB, JobKey, Kind, ObjectKey

DELETED = "DELETED"


class ObjectCache:
    """What Kubernetes says about the jobs. Each `take_` returns the job that it is news for, or None if it is none.

    Watches and answers may overtake each other: the higher resourceVersion counts.
    """

    def __init__(self) -> None:
        self.jobs: dict[JobKey, KubernetesObject] = {}
        self._children: defaultdict[JobKey, dict[ObjectKey, Child]] = defaultdict(dict)
        self._pods: defaultdict[JobKey, dict[str, Pod]] = defaultdict(dict)
        self._refusals: dict[str, Trouble] = {}
        """By the uid of the Job that could not make a pod."""

    def children(self, key: JobKey) -> dict[ObjectKey, Child]:
        """The objects that bear the job's label, pods aside."""
        return self._children.get(key, {})

    def pods(self, key: JobKey) -> tuple[Pod, ...]:
        """The job's pods by name."""
        return tuple(pod for _, pod in sorted(self._pods.get(key, {}).items()))

    def refusals(self, key: JobKey) -> dict[ObjectKey, Trouble]:
        """Why pods of the job's Jobs could not be made, when that was last tried."""
        children = self.children(key)
        return {name: self._refusals[item.uid] for name, item in children.items() if item.uid in self._refusals}

    def take_job(self, event: str | None, body: KubernetesObject) -> JobKey | None:
        """An RLJob."""
        key = JobKey(body["metadata"]["namespace"], body["metadata"]["name"])
        known = self.jobs.get(key)
        if event == DELETED:
            return key if self.jobs.pop(key, None) is not None else None
        if (
            known is not None
            and _version(known) >= _version(body)
            and known["metadata"]["uid"] == body["metadata"]["uid"]
        ):
            return None
        body["metadata"].pop("managedFields", None)
        self.jobs[key] = body
        return key

    def take_child(self, kind: Kind, event: str | None, body: KubernetesObject) -> JobKey | None:
        """An object of one of the owned kinds. One that lost its label counts as deleted, as watches tell it."""
        key = _job_of(body)
        if key is None:
            return None
        child = parse_child(kind, body)
        known = self._children[key].get(child.key)
        if event == DELETED:
            if known is None or known.uid != child.uid:  # we have made another one of this name since
                return None
            self._refusals.pop(known.uid, None)
            del self._children[key][child.key]
            return key
        if known is not None and known.resource_version >= child.resource_version:
            return None
        self._children[key][child.key] = child
        return key if known is None or _differs(known, child) else None

    def take_pod(self, event: str | None, body: KubernetesObject) -> JobKey | None:
        """A pod."""
        key = _job_of(body)
        if key is None:
            return None
        pod = parse_pod(body)
        known = self._pods[key].get(pod.name)
        if event == DELETED:
            return key if self._pods[key].pop(pod.name, None) is not None else None
        if known is not None and known.resource_version >= pod.resource_version:
            return None
        self._pods[key][pod.name] = pod
        return key

    def take_refusal(self, body: KubernetesObject) -> JobKey | None:
        """An Event that says that a controller could not make a pod."""
        uid = body["involvedObject"].get("uid", "")
        for key, child in self._all_children():
            if child.uid == uid:
                self._refusals[uid] = classify_refusal(body.get("message", ""))
                return key
        return None

    def drop_missing(self, kind: Kind, namespace: str, there: set[str], version: int) -> set[JobKey]:
        """Forget objects of `kind` that are not among the uids `there`, as of that resourceVersion; whose they were."""
        gone: set[JobKey] = set()
        if kind is RLJOB:
            for key, body in list(self.jobs.items()):
                if _is_in(key, namespace) and body["metadata"]["uid"] not in there and _version(body) <= version:
                    del self.jobs[key]
                    gone.add(key)
            return gone
        for key, pods in self._pods.items():
            for pod in list(pods.values()):
                if kind is POD and _is_in(key, namespace) and pod.uid not in there and pod.resource_version <= version:
                    del pods[pod.name]
                    gone.add(key)
        for key, child in list(self._all_children()):
            missing = _is_in(key, namespace) and child.uid not in there and child.resource_version <= version
            if child.key.kind is kind and missing:
                del self._children[key][child.key]
                gone.add(key)
        return gone

    def _all_children(self) -> Iterator[tuple[JobKey, Child]]:
        return ((key, child) for key, items in self._children.items() for child in items.values())


def _job_of(body: KubernetesObject) -> JobKey | None:
    name = body["metadata"].get("labels", {}).get(JOB_LABEL)
    return JobKey(body["metadata"]["namespace"], name) if name else None


def _is_in(key: JobKey, namespace: str) -> bool:
    return namespace in ("", key.namespace)


def _version(body: KubernetesObject) -> int:
    return int(body["metadata"]["resourceVersion"])


def _differs(known: Child, child: Child) -> bool:
    """Whether anything but the resourceVersion does."""
    return any(getattr(known, name) != getattr(child, name) for name in child.__slots__ if name != "resource_version")
