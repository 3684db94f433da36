"""The rollout master's program: `python -m tandem_rollout`."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import structlog
import uvicorn
from tandem_core.environment import MASTER_PORT, PodEnvironment
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, load_job
from tandem_core.phases import Phase

from tandem_rollout.api import Presence, build_api
from tandem_rollout.master import UnusableInput, run_master

log = structlog.get_logger()

FOR_GOOD = 3
"""Exit code for what a restart would not mend: unusable input, or a failed job."""
TERMINATED = 128 + signal.SIGTERM


def main() -> int:
    """Run the master to the job's end, or until SIGTERM; returns the exit code."""
    configure_logging(os.environ.get("TANDEM_POD_NAME", ""))
    try:
        pod = PodEnvironment.from_environment()
        job, token = load_job(pod.job_file), pod.token()
    except TandemError as error:
        log.error("cannot start", error=str(error))
        return FOR_GOOD
    try:
        return asyncio.run(serve(job, pod, token))
    except UnusableInput as error:
        log.error("the job cannot begin", error=str(error))
        return FOR_GOOD
    except TandemError as error:
        log.error("the master ends, to be started again", error=str(error))
        return 1


def configure_logging(pod: str) -> None:
    """Structured logs to stderr: coloured lines on a terminal, else JSON."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(part="master", pod=pod)


async def serve(job: RLJob, pod: PodEnvironment, token: str) -> int:
    """Answer HTTP at once, lead the job to its end; returns the exit code."""
    presence = Presence(token)
    server = _Server(
        uvicorn.Config(
            build_api(presence),
            host=pod.pod_ip,
            port=MASTER_PORT,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
        )
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(), name="HTTP API")
    leading = asyncio.create_task(run_master(job, pod, presence), name="master")
    stopping = asyncio.create_task(stop.wait(), name="signals")
    try:
        await asyncio.wait([serving, leading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if leading.done():
            record = leading.result()
            log.info("the job has ended", phase=record.phase, iteration=record.iteration, reason=record.reason or None)
            return 0 if record.phase == Phase.DONE else FOR_GOOD
        if stop.is_set():
            log.info("stopping on a signal")
            return TERMINATED
        raise TandemError(f"the HTTP API at {pod.pod_ip}:{MASTER_PORT} ended: see above; is the port taken?")
    finally:
        stopping.cancel()
        leading.cancel()
        await asyncio.wait([leading])
        server.should_exit = True
        await asyncio.wait([serving])


class _Server(uvicorn.Server):
    """Leaves signals alone: the master is to save first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


if __name__ == "__main__":
    sys.exit(main())
