"""What kopf is told to watch. Every event means the same: look at that job."""

from collections.abc import Callable
from typing import Any

import kopf

from tandem_operator.kubernetes_api import runs_in_pod
from tandem_operator.observe.cache import ObjectCache
from tandem_operator.resources import EVENT, OPTIONAL, OWNED, OWNED_SELECTOR, POD, RLJOB, JobKey, Kind

REFUSALS = "reason=FailedCreate"
"""Events of controllers that could not make a pod: nothing else tells of a quota that is too small."""


def register_handlers(cache: ObjectCache, ask: Callable[[JobKey], None]) -> kopf.OperatorRegistry:
    """Handlers that put what they see into `cache`, and ask for a look at the job that it is news for."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**context: Any) -> kopf.ConnectionInfo | None:
        return (kopf.login_with_service_account if runs_in_pod() else kopf.login_with_kubeconfig)(**context)

    def watch(kind: Kind, take: Callable[[str | None, dict[str, Any]], JobKey | None]) -> None:
        async def changed(event: dict[str, Any], **_: Any) -> None:
            key = take(event["type"], dict(event["object"]))
            if key is not None:
                ask(key)

        name = f"{kind.plural}.{kind.group}"
        kopf.on.event(kind.group, kind.version, kind.plural, id=name, registry=registry)(changed)

    watch(RLJOB, cache.take_job)
    watch(POD, cache.take_pod)
    watch(EVENT, lambda event, body: cache.take_refusal(body) if event != "DELETED" else None)
    for kind in (*OWNED, *OPTIONAL):
        watch(kind, lambda event, body, kind=kind: cache.take_child(kind, event, body))  # type: ignore[misc]
    return registry


def configure_kopf() -> kopf.OperatorSettings:
    """Kopf as a set of watches and nothing else: it writes nothing and keeps nothing."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # else it would need to see all namespaces and CustomResourceDefinitions
    settings.persistence.diffbase_storage = _NothingKept()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    for kind in (POD, *OWNED, *OPTIONAL):
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = OWNED_SELECTOR
    settings.watching.field_selectors[EVENT.group, EVENT.version, EVENT.plural] = REFUSALS
    return settings


class _NothingKept(kopf.DiffBaseStorage):
    """Kopf would copy each object at each event, to find out what has changed; nobody asks it."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> None:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        return None
