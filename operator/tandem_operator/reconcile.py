"""One look at a job: observe, plan, apply, publish. Whatever happened, the same."""

import time
from datetime import UTC, datetime

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.store import EtcdUnreachable, Store
from tandem_core.job import RLJob, RLJobStatus

from tandem_operator.apply import ObjectWriter
from tandem_operator.build import KubernetesObject, build_objects
from tandem_operator.build.names import JOB_LABEL
from tandem_operator.etcd_access import apply_job_access, delete_job, derive_password
from tandem_operator.kubernetes_api import ApiProblem, KubernetesApi
from tandem_operator.memory import JobMemory, keep_certificate, keep_token
from tandem_operator.metrics import ETCD_PROBLEMS, SCALE_DECISIONS
from tandem_operator.observe.cache import ObjectCache
from tandem_operator.observe.observe import observe_job
from tandem_operator.observe.observed import Observed
from tandem_operator.plan.failures import Trouble
from tandem_operator.plan.job import Plan, plan_job
from tandem_operator.plan.objects import Builder
from tandem_operator.plan.pace import plan_pace
from tandem_operator.plan.stage import Stage, lacks_last_words
from tandem_operator.plan.status import plan_status
from tandem_operator.plan.troubles import find_troubles
from tandem_operator.plan.turns import Turn, find_turns
from tandem_operator.publish import Publisher, dump_status
from tandem_operator.resources import POD, RLJOB, WORKLOADS, JobKey, ObjectKey, object_key
from tandem_operator.settings import OperatorSettings, build_settings

log = structlog.get_logger()

STATUS_SECONDS = 1.0
"""Least time between two writes of a job's status."""


class Reconciler:
    """Brings jobs from what they are to what they are to be, a step at a time."""

    def __init__(
        self, settings: OperatorSettings, api: KubernetesApi, store: Store, cache: ObjectCache, identity: str
    ) -> None:
        self._settings = settings
        self._access = settings.etcd_access()
        self._api = api
        self._store = store
        self._cache = cache
        self._writer = ObjectWriter(api, cache)
        self._publisher = Publisher(api, cache, identity)
        self._memories: dict[JobKey, JobMemory] = {}

    async def reconcile(self, key: JobKey) -> float | None:
        """Look at the job; in how many seconds it is to be looked at again if nothing happens before. None: never.

        Raises ApiProblem and EtcdUnreachable for what may pass: it is tried again soon.
        """
        body = self._cache.jobs.get(key)
        if body is None:
            self._memories.pop(key, None)
            return None
        memory = self._remember(key, body["metadata"]["uid"])
        observed = await observe_job(self._cache, self._store, memory, body)
        if lacks_last_words(observed):
            for pod in await self._api.list_objects(POD, key.namespace, f"{JOB_LABEL}={key.name}"):
                self._cache.take_pod(None, pod)
            observed = await observe_job(self._cache, self._store, memory, body)
        now = datetime.now(UTC)
        plan = plan_job(observed, self._builder(observed, memory), self._settings.grace_period_seconds, now)
        if plan.removal is not None and await self._remove(observed, plan):
            return None
        troubles = find_troubles(observed, await self._apply(observed, plan, memory), now)
        if plan.scale.message:
            await self._publisher.publish_turns(observed, [Turn(False, "Scaled", plan.scale.message)])
        wait = await self._publish(observed, memory, plan_status(observed, plan, troubles, now))
        if plan.expire:
            await self._api.delete(RLJOB, key.namespace, key.name, observed.uid)
        return plan_pace(observed, plan, troubles, wait, now, jobs=len(self._cache.jobs))

    def _remember(self, key: JobKey, uid: str) -> JobMemory:
        """What is remembered of the job, and not of one of the same name before it."""
        if key not in self._memories or self._memories[key].uid != uid:
            self._memories[key] = JobMemory(uid)
        return self._memories[key]

    def _builder(self, observed: Observed, memory: JobMemory) -> Builder:
        """Builds what was not built before: most looks find the same specification as the one before."""

        def build(job: RLJob, inference_replicas: int | None) -> list[KubernetesObject]:
            which = (observed.generation, inference_replicas)
            if memory.built is None or memory.built[0] != which:
                token, certificate = keep_token(memory, observed), keep_certificate(memory, observed, job)
                settings = build_settings(self._settings, self._access, JobKeys(observed.uid), token, certificate)
                memory.built = (which, build_objects(job, settings, inference_replicas=inference_replicas))
            return memory.built[1]

        return build

    async def _apply(self, observed: Observed, plan: Plan, memory: JobMemory) -> dict[ObjectKey, Trouble]:
        """Carry out the plan; the objects that the API server did not take, and why."""
        if plan.protect:
            await self._writer.protect(observed)
        await self._writer.delete(observed, plan.delete)
        ready = await self._apply_records(observed, plan, memory)
        if plan.scale.decision:
            SCALE_DECISIONS.labels(plan.scale.decision).inc()
        if plan.scale.changed:
            memory.scaled_at = datetime.now(UTC)
        await self._writer.mark(observed, plan.scale.mark)
        items = [item for item in plan.apply if ready or object_key(item).kind not in WORKLOADS]
        return await self._writer.apply(observed, memory, items)

    async def _apply_records(self, observed: Observed, plan: Plan, memory: JobMemory) -> bool:
        """Carry out what concerns etcd. False: it does not answer, so that pods that do not run yet would only fail."""
        keys = JobKeys(observed.uid)
        if observed.records is None:
            return bool(observed.jobs)
        try:
            if plan.stage is Stage.RESUMING:
                memory.access_given = False  # etcd may have begun anew
            if plan.clear_records:
                log.info("clear the job's records for a new start", job=observed.key.name)
                await self._store.delete_prefix(keys.prefix)
            if plan.give_access and self._access.username and not memory.access_given:
                await apply_job_access(self._store, keys, derive_password(self._access, keys))
                memory.access_given = True
            if plan.control is not None:
                await self._store.put(keys.control, plan.control)
        except EtcdUnreachable as error:
            ETCD_PROBLEMS.inc()
            log.warning("etcd did not take what was written", job=observed.key.name, error=str(error))
            return bool(observed.jobs)
        return True

    async def _remove(self, observed: Observed, plan: Plan) -> bool:
        """A step of a job's end; whether it was the last."""
        removal = plan.removal
        if removal is None or not removal.clear_etcd:
            return False
        try:
            await delete_job(self._store, JobKeys(observed.uid))
        except EtcdUnreachable as error:
            if not removal.abandon_etcd:
                raise
            words = f"etcd did not answer ({error}): remove {JobKeys(observed.uid).prefix}, and the user and role "
            turn = Turn(True, "EtcdAbandoned", f"{words}{observed.uid}, by hand")
            await self._publisher.publish_turns(observed, [turn])
        await self._writer.release(observed)
        return True

    async def _publish(self, observed: Observed, memory: JobMemory, status: RLJobStatus) -> float | None:
        """Tell what is new; if it is too early for that, in how many seconds it is not."""
        if dump_status(status) == dump_status(observed.status):
            return None
        early = memory.status_written_at + STATUS_SECONDS - time.monotonic()
        if early > 0:
            return early
        try:
            await self._publisher.publish_status(observed, status)
        except ApiProblem as problem:
            if problem.status == 404:
                return None  # it has just gone
            raise
        memory.status_written_at = time.monotonic()
        memory.counted_pods = memory.failed_pods or frozenset()
        await self._publisher.publish_turns(observed, find_turns(observed.status, status))
        return None
