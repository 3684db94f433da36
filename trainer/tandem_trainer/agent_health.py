"""What torchrun's agent does beside its work: it answers probes, and ends ranks that hang.

The other ranks wait for a stopped one in their collectives, for half an hour if nobody ends it; once it has ended,
torchrun starts all ranks anew, in place. torch's own watchdog (TORCHELASTIC_ENABLE_FILE_TIMER) kills the agent with
the rank, which costs the whole pod, and its health check server is an empty shell.
"""

import os
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

import psutil
import structlog
from tandem_core.environment import TRAINER_METRICS_PORT

log = structlog.get_logger()

CHECK_SECONDS = 1.0
STOPPED_CHECKS = 3
"""Nobody continues a rank that was stopped (SIGSTOP); a debugger's stop is another state."""


def start_agent_health() -> None:
    """Begin both, in threads of this process, which is the agent.

    The probes' address is that of the pod: without TANDEM_POD_IP, outside a pod, there are none.
    """
    threading.Thread(target=_end_stopped_ranks, name="stopped ranks", daemon=True).start()
    address = os.environ.get("TANDEM_POD_IP")
    if address:
        server = _Server((address, TRAINER_METRICS_PORT), _Health)
        threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()


def _end_stopped_ranks() -> None:
    checks: dict[psutil.Process, int] = {}
    while True:
        time.sleep(CHECK_SECONDS)
        stopped = filter(_is_stopped, psutil.Process().children(recursive=True))
        checks = {process: checks.get(process, 0) + 1 for process in stopped}
        for process in (process for process, count in checks.items() if count >= STOPPED_CHECKS):
            log.error("a process of a rank is stopped; ending it", process=process.pid)
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _is_stopped(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_STOPPED
    return False


class _Server(ThreadingTCPServer):
    """Without the look-up of the pod's name that an HTTPServer begins with, which may take long."""

    allow_reuse_address = True
    daemon_threads = True


class _Health(BaseHTTPRequestHandler):
    """/healthz: the agent runs."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Not a line for each probe."""
