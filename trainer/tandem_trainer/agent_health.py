"""What torchrun's agent does beside its work: it answers probes, shows metrics, and ends ranks that hang.

The other ranks wait for a stopped one in their collectives, for half an hour if nobody ends it; once it has ended,
torchrun starts all ranks anew, in place. torch's own watchdog (TORCHELASTIC_ENABLE_FILE_TIMER) kills the agent with
the rank, which costs the whole pod, and its health check server is an empty shell.
"""

import hmac
import os
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer

import psutil
import structlog
from tandem_core.environment import TRAINER_METRICS_PORT
from tandem_core.tls import build_server_context

from tandem_trainer.metrics import HUNG_RANKS, PROCESSES, render_metrics

log = structlog.get_logger()

CHECK_SECONDS = 1.0
STOPPED_CHECKS = 3
"""Nobody continues a rank that was stopped (SIGSTOP); a debugger's stop is another state."""


def start_agent_health() -> None:
    """Begin it all, in threads of this process, which is the agent.

    The probes' address is that of the pod: without TANDEM_POD_IP, outside a pod, there are none.
    """
    threading.Thread(target=_end_stopped_ranks, name="stopped ranks", daemon=True).start()
    address = os.environ.get("TANDEM_POD_IP")
    if address:
        PROCESSES.set_function(lambda: len(_list_processes()))
        server = AgentServer((address, TRAINER_METRICS_PORT))
        if directory := os.environ.get("TANDEM_TLS_DIR"):
            # Each connection's thread shakes hands, so that none waits for another.
            server.socket = build_server_context(Path(directory)).wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()


def _end_stopped_ranks() -> None:
    checks: dict[psutil.Process, int] = {}
    while True:
        time.sleep(CHECK_SECONDS)
        stopped = filter(_is_stopped, _list_processes())
        checks = {process: checks.get(process, 0) + 1 for process in stopped}
        for process in (process for process, count in checks.items() if count >= STOPPED_CHECKS):
            log.error("a process of a rank is stopped; ending it", process=process.pid)
            with suppress(psutil.NoSuchProcess):
                process.kill()
                HUNG_RANKS.inc()


def _list_processes() -> list[psutil.Process]:
    """The processes of the ranks, and of what they started."""
    return psutil.Process().children(recursive=True)


def _is_stopped(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_STOPPED
    return False


class _Answers(BaseHTTPRequestHandler):
    """/healthz: the agent runs. /metrics wants the job's bearer token."""

    def do_GET(self) -> None:
        match self.path:
            case "/healthz":
                self._answer(200)
            case "/metrics" if self._authorized():
                self._answer(200, render_metrics())
            case "/metrics":
                self._answer(401)
            case _:
                self._answer(404)

    def _authorized(self) -> bool:
        token = Path(os.environ.get("TANDEM_TOKEN_FILE", os.devnull)).read_text().strip()
        given = self.headers.get("Authorization", "")
        return bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Not a line for each probe."""


class AgentServer(ThreadingTCPServer):
    """Without the look-up of the pod's name that an HTTPServer begins with, which may take long."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Answers)

    def handle_error(self, request: object, client_address: tuple[str, int]) -> None:
        """A line, not a traceback: who speaks no TLS where it is wanted comes here."""
        log.warning("a request broke off", client=client_address[0], error=str(sys.exception()))
