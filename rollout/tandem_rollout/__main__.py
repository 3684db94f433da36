"""The rollout master's program: `python -m tandem_rollout`."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import structlog
import uvicorn
from tandem_core.environment import EXIT_FOR_GOOD, MASTER_PORT, PodEnvironment
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, load_job
from tandem_core.logs import configure_logs
from tandem_core.phases import Phase

from tandem_rollout.api import Presence, build_api
from tandem_rollout.listening import listen
from tandem_rollout.master import UnusableInput, run_master

log = structlog.get_logger()

TERMINATED = 128 + signal.SIGTERM


def main() -> int:
    """Run the master to the job's end, or until SIGTERM; returns the exit code."""
    configure_logs(part="master", pod=os.environ.get("TANDEM_POD_NAME", ""))
    try:
        pod = PodEnvironment.from_environment()
        job, token = load_job(pod.job_file), pod.token()
    except TandemError as error:
        log.error("cannot start", error=str(error))
        return EXIT_FOR_GOOD
    try:
        return asyncio.run(serve(job, pod, token))
    except UnusableInput as error:
        log.error("the job cannot begin", error=str(error))
        return EXIT_FOR_GOOD
    except TandemError as error:
        log.error("the master ends, to be started again", error=str(error))
        return 1


async def serve(job: RLJob, pod: PodEnvironment, token: str) -> int:
    """Answer HTTP at once, lead the job to its end; returns the exit code."""
    presence = Presence(token, job)
    server = _Server(
        uvicorn.Config(
            build_api(presence),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
            ssl_certfile=pod.certificate_file,
            ssl_keyfile=pod.key_file,
        )
    )
    sockets = listen(pod.pod_ip, MASTER_PORT)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets), name="HTTP API")
    leading = asyncio.create_task(run_master(job, pod, presence), name="master")
    stopping = asyncio.create_task(stop.wait(), name="signals")
    try:
        await asyncio.wait([serving, leading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if leading.done():
            record = leading.result()
            log.info("the job has ended", phase=record.phase, iteration=record.iteration, reason=record.reason or None)
            return 0 if record.phase == Phase.DONE else EXIT_FOR_GOOD
        if stop.is_set():
            log.info("stopping on a signal")
            return TERMINATED
        raise TandemError(f"the HTTP API at {pod.pod_ip}:{MASTER_PORT} ended: see above")
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
