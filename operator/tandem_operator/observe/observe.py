"""Puts together all that is known of a job."""

from datetime import datetime

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.store import EtcdUnreachable, Store
from tandem_core.job import RLJob

from tandem_operator.build import KubernetesObject
from tandem_operator.memory import JobMemory, count_losses
from tandem_operator.metrics import ETCD_PROBLEMS
from tandem_operator.observe.cache import ObjectCache
from tandem_operator.observe.observed import Observed, parse_spec, parse_status
from tandem_operator.observe.records import Records, observe_records
from tandem_operator.resources import JobKey


async def observe_job(cache: ObjectCache, store: Store, memory: JobMemory, body: KubernetesObject) -> Observed:
    """The job `body` as the watches tell of it, which costs nothing, and its records in etcd."""
    metadata = body["metadata"]
    key = JobKey(metadata["namespace"], metadata["name"])
    job, problem = _parse(memory, body)
    records, etcd_problem = await _read_records(store, JobKeys(metadata["uid"]))
    deleted_at = metadata.get("deletionTimestamp")
    pods = cache.pods(key)
    status = parse_status(body)
    return Observed(
        key=key,
        uid=metadata["uid"],
        generation=metadata["generation"],
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
        deleted_at=datetime.fromisoformat(deleted_at) if deleted_at else None,
        finalizers=tuple(metadata.get("finalizers", ())),
        annotations=metadata.get("annotations", {}),
        job=job,
        problem=problem,
        status=status,
        children=dict(cache.children(key)),
        pods=pods,
        refusals=cache.refusals(key),
        records=records,
        etcd_problem=etcd_problem,
        last_scale_time=memory.scaled_at or status.last_scale_time,
        losses=count_losses(memory, pods),
    )


def _parse(memory: JobMemory, body: KubernetesObject) -> tuple[RLJob | None, str]:
    generation = body["metadata"]["generation"]
    if memory.parsed is None or memory.parsed[0] != generation:
        memory.parsed = (generation, *parse_spec(body))
    return memory.parsed[1:]


async def _read_records(store: Store, keys: JobKeys) -> tuple[Records | None, str]:
    try:
        return await observe_records(store, keys), ""
    except EtcdUnreachable as error:
        ETCD_PROBLEMS.inc()
        return None, str(error)
