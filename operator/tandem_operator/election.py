"""Which of several replicas is the active one: who holds a Lease of coordination.k8s.io."""

import asyncio
import time
from datetime import UTC, datetime

import structlog
from tandem_core.errors import TandemError

from tandem_operator.build import KubernetesObject
from tandem_operator.kubernetes_api import ApiProblem, KubernetesApi
from tandem_operator.metrics import LEADING
from tandem_operator.resources import LEASE

log = structlog.get_logger()

LEASE_SECONDS = 10
"""How long the Lease is somebody's after he last renewed it. Whoever waits takes it over within this time and a try."""
RENEW_SECONDS = 2.0
MARGIN_SECONDS = 2.0
"""The holder stops writing this long before others may take over: a request that is on its way must have arrived."""


class Deposed(TandemError):
    """This process no longer holds the Lease: it must not write any more, and end."""


class Election:
    """Takes part for as long as its process lives. Others' clocks do not count: only that a Lease does not change."""

    def __init__(self, api: KubernetesApi, namespace: str, name: str, identity: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._valid_until = 0.0
        """On the clock that goes on while the machine sleeps."""
        self._seen: tuple[str, float] = ("", 0.0)
        """The Lease's resourceVersion, and since when it has been that."""
        self.answered_at = clock()
        """When the API server last answered."""
        self.tried_at = clock()

    def check(self) -> None:
        """Raises Deposed if others may have taken over. To be called right before each write."""
        if clock() >= self._valid_until:
            raise Deposed(f"{self._identity} does not hold the Lease {self._namespace}/{self._name} any more")

    @property
    def leading(self) -> bool:
        """Whether this process is the active one."""
        return clock() < self._valid_until

    async def wait(self) -> None:
        """Return when this process holds the Lease."""
        log.info("waiting for the Lease", lease=self._name, identity=self._identity)
        while not await self._attempt():  # noqa: ASYNC110 - nothing tells when the Lease is free
            await asyncio.sleep(RENEW_SECONDS / 2)
        LEADING.set(1)
        log.info("this is the active operator", identity=self._identity)

    async def keep(self) -> None:
        """Renew the Lease until that fails for too long; raises Deposed then."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await self._attempt()
            self.check()

    async def resign(self) -> None:
        """Let others take over at once."""
        if not self.leading:
            return
        self._valid_until = 0.0
        LEADING.set(0)
        lease = await self._api.read(LEASE, self._namespace, self._name)
        if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._api.replace(LEASE, lease)

    async def _attempt(self) -> bool:
        """Try to take or renew the Lease; whether it is held."""
        began = self.tried_at = clock()
        try:
            lease = await self._api.read(LEASE, self._namespace, self._name)
            self.answered_at = clock()
            if lease is None:
                await self._api.create(LEASE, self._lease({}, None))
            elif self._is_free(lease):
                await self._api.replace(LEASE, self._lease(lease["metadata"], lease["spec"]))
            else:
                return False
        except ApiProblem as problem:
            if problem.status != 409:  # somebody else was faster
                log.warning("the Lease could not be written", lease=self._name, problem=str(problem))
            return False
        self._valid_until = began + LEASE_SECONDS - MARGIN_SECONDS
        return True

    def _is_free(self, lease: KubernetesObject) -> bool:
        """Whether it is this process's, nobody's, or has not been renewed for its time while this process looked on."""
        version, spec = lease["metadata"]["resourceVersion"], lease["spec"]
        if self._seen[0] != version:
            self._seen = (version, clock())
        holder = spec.get("holderIdentity")
        waited = clock() - self._seen[1]
        return not holder or holder == self._identity or waited > spec.get("leaseDurationSeconds", LEASE_SECONDS)

    def _lease(self, metadata: KubernetesObject, spec: KubernetesObject | None) -> KubernetesObject:
        former = spec or {}
        mine = former.get("holderIdentity") == self._identity
        now = datetime.now(UTC)
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {**metadata, "namespace": self._namespace, "name": self._name},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": LEASE_SECONDS,
                "acquireTime": former["acquireTime"] if mine else _micro(now),
                "renewTime": _micro(now),
                "leaseTransitions": former.get("leaseTransitions", 0) + (not mine),
            },
        }


def clock() -> float:
    """Seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _micro(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
