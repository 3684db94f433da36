"""Carries out the part of a plan that is about Kubernetes objects."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import structlog
from tandem_core.job.conditions import Reason

from tandem_operator.build import KubernetesObject
from tandem_operator.kubernetes_api import ApiProblem, KubernetesApi
from tandem_operator.memory import JobMemory, hash_built
from tandem_operator.observe.cache import ObjectCache
from tandem_operator.observe.children import Child, fingerprint_fields
from tandem_operator.observe.observed import Observed
from tandem_operator.observe.pods import DELETION_COST, Pod
from tandem_operator.plan.failures import Trouble, classify_refusal
from tandem_operator.plan.scaling import LEAVING_COST
from tandem_operator.resources import FINALIZER, POD, RLJOB, WORKLOADS, ObjectKey, object_key

log = structlog.get_logger()


class ObjectWriter:
    """Writes objects, and what the API server answers into the cache, so that a watch has nothing new to tell."""

    def __init__(self, api: KubernetesApi, cache: ObjectCache) -> None:
        self._api = api
        self._cache = cache

    async def protect(self, observed: Observed) -> None:
        """Put the finalizer on the job; raises ApiProblem."""
        await self._set_finalizers(observed, [*observed.finalizers, FINALIZER])

    async def release(self, observed: Observed) -> None:
        """Take the finalizer off: Kubernetes then deletes the job and what it owns."""
        await self._set_finalizers(observed, [name for name in observed.finalizers if name != FINALIZER])

    async def _set_finalizers(self, observed: Observed, names: list[str]) -> None:
        known = self._cache.jobs.get(observed.key)
        if known is None:
            return  # it has just gone
        patch = {"metadata": {"finalizers": names, "resourceVersion": known["metadata"]["resourceVersion"]}}
        body = await self._api.merge(RLJOB, observed.key.namespace, observed.key.name, patch)
        self._cache.take_job(None, body)

    async def delete(self, observed: Observed, children: Sequence[Child]) -> None:
        """Delete objects of the job."""
        for child in children:
            log.info("delete", job=observed.key.name, object=str(child.key))
            await self._api.delete(child.key.kind, observed.key.namespace, child.key.name, child.uid)

    async def mark(self, observed: Observed, pods: Sequence[Pod]) -> None:
        """Tell Deployments that these pods are the first to go."""
        patch = {"metadata": {"annotations": {DELETION_COST: str(LEAVING_COST)}}}
        for pod in pods:
            try:
                self._cache.take_pod(None, await self._api.merge(POD, observed.key.namespace, pod.name, patch))
            except ApiProblem as problem:
                if problem.status != 404:
                    raise

    async def apply(
        self, observed: Observed, memory: JobMemory, items: Sequence[KubernetesObject]
    ) -> dict[ObjectKey, Trouble]:
        """Apply what is not as it should be: what pods need first, together; then what pods come from.

        The objects that the API server did not take, and why.
        """
        troubles: dict[ObjectKey, Trouble] = {}
        keyed = {object_key(item): item for item in items}
        for workloads in (False, True):
            part = {key: item for key, item in keyed.items() if (key.kind in WORKLOADS) is workloads}
            outcomes = await asyncio.gather(*(self._apply(observed, memory, key, item) for key, item in part.items()))
            troubles |= {key: trouble for key, trouble in zip(part, outcomes, strict=True) if trouble is not None}
            if troubles:
                break  # a pod without its configuration or its claims would only fail
        return troubles

    async def _apply(
        self, observed: Observed, memory: JobMemory, key: ObjectKey, item: KubernetesObject
    ) -> Trouble | None:
        child = observed.children.get(key)
        if child is not None and child.owner != observed.uid:
            return _name_taken(key, child.owner)
        if child is not None and child.deleting:
            return None  # its end is news, and then it is made anew
        wanted, found = hash_built(memory, key, item), child.fingerprint if child is not None else ""
        if child is not None and memory.applied.get(key) == (wanted, found):
            return None
        if key in memory.refused and memory.refused[key][:2] == (wanted, found):
            return memory.refused[key][2]
        try:
            # What is not known to be the job's is not taken from whoever has it.
            body, is_new = await self._api.apply(key.kind, item, force=child is not None)
        except ApiProblem as problem:
            return _refusal(memory, key, wanted, found, problem)
        if child is None and not is_new and _older(body, observed.created_at):
            await self._api.apply(key.kind, _nothing_of(item))
            return _name_taken(key, "")
        self._cache.take_child(key.kind, None, body)
        memory.applied[key] = (wanted, fingerprint_fields(body))
        memory.refused.pop(key, None)
        return None


def _refusal(memory: JobMemory, key: ObjectKey, wanted: str, found: str, problem: ApiProblem) -> Trouble | None:
    """What the refusal means. Raises the problem if it may pass by itself."""
    if problem.status in (0, 408, 429) or problem.status >= 500:
        raise problem
    if problem.status == 409 and problem.reason == "Conflict" and not found:
        return _name_taken(key, "")
    if problem.status == 422 and found:
        # A field that cannot change, such as a Job's template that this version renders in another way. Pods go on as
        # they are; the object is made anew when the job is resumed.
        log.warning("left as it is", object=str(key), problem=str(problem))
        memory.refused[key] = (wanted, found, Trouble(Reason.REFUSED, f"{key}: {problem}", blocks=False))
        return memory.refused[key][2]
    trouble = classify_refusal(f"{key}: {problem}")
    if problem.status == 404:
        words = f"{key}: this cluster does not know {key.kind.api_version} {key.kind.name}"
        trouble = Trouble(Reason.REFUSED, words, blocks=True)
    return trouble


def _name_taken(key: ObjectKey, owner: str) -> Trouble:
    whose = "belongs to an earlier job of this name and is about to go" if owner else "is there and not this job's"
    return Trouble(Reason.REFUSED, f"{key} {whose}: if it stays, delete it, or give the job another name", blocks=True)


def _older(body: KubernetesObject, created_at: datetime) -> bool:
    return datetime.fromisoformat(body["metadata"]["creationTimestamp"]) < created_at


def _nothing_of(item: KubernetesObject) -> KubernetesObject:
    """With this applied, the operator owns no field of the object any more."""
    metadata = {name: item["metadata"][name] for name in ("name", "namespace")}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}
