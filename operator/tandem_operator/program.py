"""The operator's process: waits until it is the active one, then works until it is told to end, or is deposed."""

import asyncio
import contextlib
import os
import signal
import socket
import uuid
from collections import Counter

import kopf
import structlog
from tandem_core.coordination.access import EtcdAccess
from tandem_core.coordination.store import EtcdUnreachable, Store
from tandem_core.errors import TandemError
from tandem_core.first_of import first_of
from tandem_core.job.status import WaitingPhase
from tandem_core.phases import Phase

from tandem_operator.election import LEASE_SECONDS, Deposed, Election, clock
from tandem_operator.etcd_access import enable_authentication
from tandem_operator.handlers import configure_kopf, register_handlers
from tandem_operator.health import serve_health
from tandem_operator.kubernetes_api import KubernetesApi, load_configuration
from tandem_operator.metrics import JOBS
from tandem_operator.observe.cache import ObjectCache
from tandem_operator.reconcile import Reconciler
from tandem_operator.resources import RLJOB
from tandem_operator.resync import keep_in_step
from tandem_operator.settings import OperatorSettings
from tandem_operator.work_queue import WorkQueue

log = structlog.get_logger()

ETCD_PATIENCE_SECONDS = 3.0
"""How long a reconcile waits for an etcd that is away; it is tried again anyway."""
COUNT_SECONDS = 5.0
SECURE_SECONDS = 10.0
"""Between two looks at etcd's authentication."""


async def run_operator(settings: OperatorSettings) -> None:
    """Work until SIGTERM or SIGINT; the process dies if another one took over. Raises TandemError without access."""
    configuration = await load_configuration()
    identity = settings.identity or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with KubernetesApi(configuration) as api:
        election = Election(api, settings.lease_namespace, settings.lease_name, identity)
        async with serve_health(settings.port, alive=lambda: _alive(election), ready=lambda: _ready(election)) as port:
            log.info("answering", port=port, identity=identity)
            try:
                await first_of(stop.wait(), _lead(settings, election, identity, stop))
            finally:
                with contextlib.suppress(TandemError):
                    await election.resign()


async def _lead(settings: OperatorSettings, election: Election, identity: str, stop: asyncio.Event) -> None:
    await election.wait()
    await first_of(_keep_or_die(election), _work(settings, election, identity, stop))


async def _keep_or_die(election: Election) -> None:
    """Hold the Lease. Without it nothing may be finished in order: another operator is at work already."""
    try:
        await election.keep()
    except Deposed as error:
        log.error("the operator ends, to be started again", error=str(error))
        os._exit(1)


async def _work(settings: OperatorSettings, election: Election, identity: str, stop: asyncio.Event) -> None:
    """What the active operator does."""
    configuration = await load_configuration()
    cache = ObjectCache()
    async with (
        KubernetesApi(configuration, may_write=election.check) as api,
        Store(settings.etcd_access(), patience_seconds=ETCD_PATIENCE_SECONDS) as store,
        asyncio.TaskGroup() as group,
    ):
        await _wait_for_crd(api, settings)
        queue = WorkQueue(Reconciler(settings, api, store, cache, identity).reconcile, settings.workers)
        if settings.etcd_enable_authentication:
            group.create_task(_secure_etcd(store.access), name="authentication of etcd")
        group.create_task(queue.run(), name="work queue")
        group.create_task(_count(cache), name="count jobs")
        compare = keep_in_step(api, cache, queue.ask, settings.namespaces, settings.resync_seconds)
        group.create_task(compare, name="resync")
        group.create_task(_watch(settings, cache, queue, identity, stop), name="watches")


async def _watch(
    settings: OperatorSettings, cache: ObjectCache, queue: WorkQueue, identity: str, stop: asyncio.Event
) -> None:
    await kopf.operator(
        registry=register_handlers(cache, queue.ask),
        settings=configure_kopf(),
        identity=identity,  # or kopf asks for the user's name, and an image has none for uid 1000
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    stop.set()  # kopf takes signals for itself


async def _secure_etcd(access: EtcdAccess) -> None:
    """Jobs need not wait for it: their users are made before as well, and hold from when it is on.

    It is looked at again and again: an etcd that has lost all its volumes begins anew, and open to everybody.
    """
    while True:
        try:
            if await enable_authentication(access):
                log.info("authentication of etcd is on")
        except EtcdUnreachable as error:
            log.warning("it is not known whether etcd's authentication is on: it is tried again", error=str(error))
        await asyncio.sleep(SECURE_SECONDS)


async def _wait_for_crd(api: KubernetesApi, settings: OperatorSettings) -> None:
    """Return when the API server knows RLJobs: watches that begin earlier would never see any."""
    while not await api.knows(RLJOB):
        log.warning("this cluster does not know RLJobs: apply the CustomResourceDefinition (manifests/crd.yaml)")
        await asyncio.sleep(COUNT_SECONDS)


async def _count(cache: ObjectCache) -> None:
    """Keep the number of jobs by phase."""
    while True:
        phases = Counter({str(phase): 0 for phase in (*WaitingPhase, *Phase)})
        phases.update(body.get("status", {}).get("phase", WaitingPhase.PENDING) for body in cache.jobs.values())
        JOBS.clear()
        for phase, number in phases.items():
            JOBS.labels(phase).set(number)
        await asyncio.sleep(COUNT_SECONDS)


def _alive(election: Election) -> str:
    """That this answers shows that the process runs; tries at the Lease show that it works."""
    silent = clock() - election.tried_at
    return f"the Lease has not been tried for {silent:.0f} s" if silent > 6 * LEASE_SECONDS else ""


def _ready(election: Election) -> str:
    silent = clock() - election.answered_at
    return f"the API server has not answered for {silent:.0f} s" if silent > 2 * LEASE_SECONDS else ""
