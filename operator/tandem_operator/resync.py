"""Finds what has gone while a watch was interrupted: kopf lists anew then, and tells of nothing that is missing."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from tandem_operator.kubernetes_api import ApiProblem, KubernetesApi
from tandem_operator.observe.cache import ObjectCache
from tandem_operator.resources import OWNED, OWNED_SELECTOR, POD, RLJOB, JobKey

log = structlog.get_logger()

RESYNC_SECONDS = 300.0


async def keep_in_step(
    api: KubernetesApi, cache: ObjectCache, ask: Callable[[JobKey], None], namespaces: Sequence[str]
) -> None:
    """Compare the cache with the API server now and then, a kind at a time."""
    kinds = (RLJOB, POD, *OWNED)
    while True:
        for kind in kinds:
            await asyncio.sleep(RESYNC_SECONDS / len(kinds))
            try:
                for namespace in namespaces or ("",):
                    selector = "" if kind is RLJOB else OWNED_SELECTOR
                    there, version = await api.list_uids(kind, namespace, selector)
                    for key in cache.drop_missing(kind, namespace, there, version):
                        log.warning("an object had gone unseen", kind=kind.name, job=key.name)
                        ask(key)
            except ApiProblem as problem:
                log.warning("cannot compare with the API server", kind=kind.name, problem=str(problem))
