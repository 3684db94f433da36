"""Tells the world about a job: its status, and Events."""

import uuid
from datetime import UTC, datetime
from typing import Any

import structlog
from tandem_core.job import API_VERSION, RLJobStatus

from tandem_operator.build import KubernetesObject
from tandem_operator.kubernetes_api import ApiProblem, KubernetesApi
from tandem_operator.observe.cache import ObjectCache
from tandem_operator.observe.observed import Observed
from tandem_operator.plan.turns import Turn
from tandem_operator.resources import EVENT, FIELD_MANAGER, RLJOB

log = structlog.get_logger()

MESSAGE_CHARACTERS = 1024
"""Longest message of an Event: pkg/apis/core/validation/events.go."""


def dump_status(status: RLJobStatus) -> dict[str, Any]:
    """As it stands in the object."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


class Publisher:
    """Writes statuses and Events."""

    def __init__(self, api: KubernetesApi, cache: ObjectCache, identity: str) -> None:
        self._api = api
        self._cache = cache
        self._identity = identity

    async def publish_status(self, observed: Observed, status: RLJobStatus) -> None:
        """Apply the status; raises ApiProblem."""
        metadata = {"namespace": observed.key.namespace, "name": observed.key.name}
        item = {"apiVersion": API_VERSION, "kind": RLJOB.name, "metadata": metadata, "status": dump_status(status)}
        body, _ = await self._api.apply(RLJOB, item, subresource="status")
        self._cache.take_job(None, body)

    async def publish_turns(self, observed: Observed, turns: list[Turn]) -> None:
        """Make an Event of each; one that the API server does not take is logged."""
        for turn in turns:
            log.info(
                "turn",
                job=observed.key.name,
                namespace=observed.key.namespace,
                reason=turn.reason,
                message=turn.message,
            )
            try:
                await self._api.create(EVENT, self._event(observed, turn))
            except ApiProblem as problem:
                log.warning("an Event was not taken", job=observed.key.name, problem=str(problem))

    def _event(self, observed: Observed, turn: Turn) -> KubernetesObject:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": observed.key.namespace, "name": f"{observed.key.name}.{uuid.uuid4().hex[:16]}"},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": RLJOB.name,
                "namespace": observed.key.namespace,
                "name": observed.key.name,
                "uid": observed.uid,
            },
            "type": "Warning" if turn.warning else "Normal",
            "reason": turn.reason,
            "message": turn.message[:MESSAGE_CHARACTERS],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": f"tandem.dev/{FIELD_MANAGER}",
            "reportingInstance": self._identity,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
