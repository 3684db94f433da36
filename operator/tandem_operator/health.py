"""/healthz, /readyz and /metrics."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tandem_operator.metrics import REGISTRY


@asynccontextmanager
async def serve_health(
    port: int,
    *,
    alive: Callable[[], str],
    ready: Callable[[], str],
    host: str = "0.0.0.0",  # noqa: S104 - probes come from outside
) -> AsyncIterator[int]:
    """Answer while the block runs; yields the port. `alive` and `ready` say what is wrong, nothing if all is well."""

    async def answer(problem: str) -> web.Response:
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", lambda _: answer(alive()))
    app.router.add_get("/readyz", lambda _: answer(ready()))
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
