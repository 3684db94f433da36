"""Finds what has gone while a watch was interrupted: kopf lists anew then, and tells of nothing that is missing."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from tandem_operator.kubernetes_api import ApiProblem, KubernetesApi
from tandem_operator.observe.cache import ObjectCache
from tandem_operator.resources import OWNED, OWNED_SELECTOR, POD, RLJOB, JobKey

log = structlog.get_logger()


async def keep_in_step(
    api: KubernetesApi, cache: ObjectCache, ask: Callable[[JobKey], None], namespaces: Sequence[str], seconds: float
) -> None:
    """Compare the cache with the API server, a kind at a time and all of them once in so many seconds."""
    kinds = (RLJOB, POD, *OWNED)
    while True:
        for kind in kinds:
            await asyncio.sleep(seconds / len(kinds))
            try:
                for namespace in namespaces or ("",):
                    selector = "" if kind is RLJOB else OWNED_SELECTOR
                    there, version = await api.list_uids(kind, namespace, selector)
                    for key in cache.drop_missing(kind, namespace, there, version):
                        log.warning("an object had gone unseen", kind=kind.name, job=key.name)
                        ask(key)
            except ApiProblem as problem:
                log.warning("cannot compare with the API server", kind=kind.name, problem=str(problem))
