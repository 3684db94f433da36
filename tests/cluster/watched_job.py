"""An RLJob under the operator: what a test does to it, and what it waits for."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.records import Record
from tandem_core.coordination.store import Store
from tandem_operator.resources import JOB, OPTIONAL, OWNED, POD, RLJOB, Kind

from .rljob_api import MERGE, Api, Object, Refused

DEADLINE_SECONDS = 40.0


def wait_until[T](look: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """The first true answer of `look`."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
    return found


class WatchedJob:
    """One job by its name, with its objects."""

    def __init__(self, api: Api, namespace: str, name: str, etcd: str) -> None:
        self.api = api
        self.namespace = namespace
        self.name = name
        self._etcd = etcd

    def create(self, spec: Object, **metadata: Any) -> "WatchedJob":
        """Make it."""
        head = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": {"name": self.name, **metadata}}
        self.api.create({**head, "spec": spec})
        return self

    def get(self, kind: Kind = RLJOB, name: str = "") -> Object | None:
        """The job, or another object."""
        try:
            return self.api.request("GET", kind.path(self.namespace, name or self.name))
        except Refused:
            return None

    def edit(self, patch: Object, kind: Kind = RLJOB, name: str = "", subresource: str = "") -> Object:
        """Change an object by a merge patch."""
        path = kind.path(self.namespace, name or self.name, subresource)
        return self.api.request("PATCH", path, patch, Content_Type=MERGE)

    def delete(self, kind: Kind = RLJOB, name: str = "") -> None:
        """Ask for an object to go."""
        self.api.request("DELETE", kind.path(self.namespace, name or self.name))

    def objects(self, kinds: tuple[Kind, ...] = (*OWNED, *OPTIONAL)) -> dict[tuple[Kind, str], Object]:
        """All objects with the job's label."""
        query = f"?labelSelector=tandem.dev/job={self.name}"
        return {
            (kind, item["metadata"]["name"]): item
            for kind in kinds
            for item in self.api.request("GET", kind.path(self.namespace) + query)["items"]
        }

    def pods(self, component: str) -> list[Object]:
        """Pods of one kind that are not about to go."""
        found = [
            item for (_, name), item in self.objects((POD,)).items() if name.startswith(f"{self.name}-{component}")
        ]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def versions(self) -> dict[tuple[Kind, str], str]:
        """The resourceVersion of the job and of everything that it owns."""
        job = self.get() or {"metadata": {"resourceVersion": ""}}
        own = {key: item["metadata"]["resourceVersion"] for key, item in self.objects().items()}
        return {**own, (RLJOB, self.name): job["metadata"]["resourceVersion"]}

    def status(self) -> Object:
        """The job's status."""
        job = self.get()
        return job.get("status", {}) if job is not None else {}

    def condition(self, kind: str) -> Object:
        """One condition."""
        return next((item for item in self.status().get("conditions", []) if item["type"] == kind), {})

    def wait_for(self, condition: str, status: str, reason: str | None = None) -> Object:
        """The condition once it is that."""
        return wait_until(
            lambda: (
                found
                if (found := self.condition(condition)).get("status") == status and reason in (None, found["reason"])
                else None
            ),
            f"{self.name}: {condition}={status} {reason}",
        )

    def wait_for_pods(self) -> None:
        """Return when both Jobs have their pods."""
        wait_until(lambda: self.pods("hybrid") and self.pods("master"), f"pods of {self.name}")

    def report(self, record_name: str, record: Record) -> None:
        """Write a record as the job's master would."""
        self._in_etcd(lambda store, keys: store.put(getattr(keys, record_name), record))

    def read[R: Record](self, record_name: str, kind: type[R]) -> R | None:
        """A record of the job in etcd."""
        found: R | None = self._in_etcd(lambda store, keys: store.get(getattr(keys, record_name), kind))
        return found

    def keys_in_etcd(self, uid: str) -> int:
        """How many keys there are below the job's prefix."""

        async def count() -> int:
            async with Store(self._etcd) as store:
                prefix = JobKeys(uid).prefix
                response = await store.kv.get(prefix, range_end=prefix[:-1] + "0", count_only=True)
                return int(response.count)

        return asyncio.run(count())

    def bind_pods(self, component: str) -> None:
        """Take pods away from the scheduler. There is no such node, which Kubernetes minds only after 40 s."""
        for pod in self.pods(component):
            name = pod["metadata"]["name"]
            target = {"apiVersion": "v1", "kind": "Node", "name": "nowhere"}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            self.api.request("POST", POD.path(self.namespace, name, "binding"), body)

    def end_pods(self, component: str, phase: str = "Succeeded", **status: Any) -> None:
        """Let pods end as kubelet would tell it."""
        for pod in self.pods(component):
            name = pod["metadata"]["name"]
            self.edit({"status": {"phase": phase, **status}}, POD, name, "status")

    def let_pods_go(self) -> bool:
        """Confirm the end of pods that are to go, as their kubelet would; whether there were any."""
        going = [name for (_, name), pod in self.objects((POD,)).items() if "deletionTimestamp" in pod["metadata"]]
        for name in going:
            with suppress(Refused):
                self.api.request("DELETE", POD.path(self.namespace, name), {"gracePeriodSeconds": 0})
        return bool(going)

    def jobs(self) -> dict[str, Object]:
        """The Jobs of the job by the kind of their pods."""
        return {name.removeprefix(f"{self.name}-"): item for (_, name), item in self.objects((JOB,)).items()}

    def _in_etcd(self, work: Callable[[Store, JobKeys], Any]) -> Any:
        job = self.get()
        assert job is not None

        async def run() -> Any:
            async with Store(self._etcd) as store:
                return await work(store, JobKeys(job["metadata"]["uid"]))

        return asyncio.run(run())
