"""The page of a job on this machine: its master's while it runs, afterwards the same one served from here."""

import asyncio
import contextlib
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from tandem_core.environment import MASTER_PORT
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, load_job
from tandem_operator.build.names import Component, component_name, job_identifier
from tandem_rollout.api import Presence, build_api
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url

from tandem_local.outcome import find_history
from tandem_local.process_table import is_alive
from tandem_local.run_directory import RunDirectory
from tandem_local.run_state import RunState
from tandem_local.web_page.browser import page_address, tell_address


def open_page(run: RunDirectory, port: int, *, open_browser: bool) -> None:
    """Tell where the page is; for a run that has ended, serve it on `port` (0: any) until interrupted.

    Raises TandemError if there is nothing to show.
    """
    state, job = run.read_state(), load_job(run.job_file)
    if state is not None and not state.status.final and is_alive(state.runner):
        token, encrypted = run.token_file.read_text().strip(), job.spec.security.tls
        address = page_address(find_master(state, job), MASTER_PORT, token, encrypted=encrypted)
        tell_address(address, run.path, open_browser=open_browser)
        return
    history = find_history(run, job)
    if history is None:
        raise TandemError(
            f"run {run.name} is not running, and there is no SQLite replay buffer in {run.path}/volumes: it has "
            "recorded nothing, or its spec.storage is postgresql"
        )
    asyncio.run(_serve(history, job, port, open_browser))


def find_master(state: RunState, job: RLJob) -> str:
    """The address of the running job's master. Raises TandemError if it does not answer yet."""
    workload = component_name(job, Component.MASTER)
    for pod in state.pods:
        if pod.name.startswith(f"{workload}-") and all(container.ready for container in pod.containers):
            return pod.address
    raise TandemError(f"the master of run {state.job} is not ready: `tandem status {state.job}` says what it waits for")


class _Server(uvicorn.Server):
    """Leaves signals alone: what is open is closed first."""

    def end(self) -> None:
        """Answer no more."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(history: Path, job: RLJob, port: int, open_browser: bool) -> None:
    """Answer until a signal to end."""
    token = secrets.token_urlsafe(32)
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise TandemError(f"cannot listen on port {port}: {error.strerror}; --port names another one") from error
    async with ReplayBuffer(sqlite_url(history), job_identifier(job)) as buffer:
        server = _Server(uvicorn.Config(build_api(Presence(token, job, buffer)), log_level="warning", access_log=False))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.end)
        with tempfile.TemporaryDirectory(prefix="tandem-page-") as directory:
            tell_address(
                page_address("127.0.0.1", listener.getsockname()[1], token), Path(directory), open_browser=open_browser
            )
            await server.serve([listener])
