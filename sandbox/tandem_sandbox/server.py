"""Serves the API while the service is open."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import structlog
import uvicorn
from prometheus_client import start_http_server
from tandem_core.errors import TandemError
from tandem_core.logs import configure_logs

from tandem_sandbox.api import build_api
from tandem_sandbox.control_group import Groups
from tandem_sandbox.service import Service
from tandem_sandbox.serving import Presence
from tandem_sandbox.settings import Settings

_log = structlog.get_logger(__name__)
_GRACE_SECONDS = 5


def serve(settings: Settings, groups: Groups) -> int:
    """Until SIGTERM; returns the exit code."""
    configure_logs(part="sandbox")
    try:
        asyncio.run(_serve(settings, groups))
    except (TandemError, OSError) as error:
        _log.error("the sandbox ends", error=str(error))
        return 1
    return 0


async def _serve(settings: Settings, groups: Groups) -> None:
    presence = Presence(settings)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host, presence.metrics.registry)
    server = _Server(
        uvicorn.Config(
            build_api(presence),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    try:
        async with Service.open(settings, groups) as service:
            presence.service = service
            _log.info("serving", host=settings.host, port=settings.port, running=settings.running, ahead=settings.ahead)
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await serving
    finally:
        stopping.cancel()
        server.should_exit = True
        await asyncio.wait([serving])
    _log.info("ended")


class _Server(uvicorn.Server):
    """Leaves signals alone: containers are to be ended after the API."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
