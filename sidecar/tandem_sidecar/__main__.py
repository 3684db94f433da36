"""The checkpoint engine's program: `python -m tandem_sidecar`."""

import argparse
import asyncio
import contextlib
import os
import signal
import ssl
import sys
from collections.abc import Iterator

import structlog
import uvicorn
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Control, EngineState, PhaseRecord, Role
from tandem_core.coordination.store import Store
from tandem_core.environment import CHECKPOINT_ENGINE_PORT, EXIT_FOR_GOOD, PodEnvironment
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, load_job
from tandem_core.logs import configure_logs
from tandem_core.model_files import prepare_model
from tandem_core.weights.manifest import Commit

from tandem_sidecar.api import Presence, build_api
from tandem_sidecar.engine import FAREWELL_SECONDS, Engine, EngineSettings
from tandem_sidecar.engine_arguments import build_engine_command
from tandem_sidecar.service import Service, ServiceSettings

log = structlog.get_logger()


def main() -> int:
    """Run until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tandem_sidecar", description="Owns a pod's vLLM engine and its weights.")
    parser.add_argument("--role", choices=[Role.SIDECAR, Role.INFERENCE], default=Role.SIDECAR, type=Role)
    role: Role = parser.parse_args().role
    configure_logs(part=role, pod=os.environ.get("TANDEM_POD_NAME", ""))
    try:
        pod = PodEnvironment.from_environment()
        job = load_job(pod.job_file)
        token, trust = pod.token(), pod.client_context()
    except TandemError as error:
        log.error("cannot start", error=str(error))
        return EXIT_FOR_GOOD
    try:
        asyncio.run(serve(job, pod, token, trust, role))
    except ExceptionGroup as errors:
        _, unexpected = errors.split(TandemError)
        if unexpected is not None:
            raise
        log.error("the checkpoint engine ends", error="; ".join(_messages(errors)))
        return 1
    return 0


async def serve(job: RLJob, pod: PodEnvironment, token: str, trust: ssl.SSLContext | None, role: Role) -> None:
    """Answer HTTP at once; follow the job until SIGTERM or an error. The engine is ended on the way out."""
    presence = Presence(pod.pod_name, role, token, pod.shm_dir)
    config = uvicorn.Config(
        build_api(presence),
        host=pod.pod_ip,
        port=CHECKPOINT_ENGINE_PORT,
        log_level="warning",
        timeout_graceful_shutdown=5,
        ssl_certfile=pod.certificate_file,
        ssl_keyfile=pod.key_file,
    )
    server = _Server(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(), name="HTTP API")
        following = group.create_task(follow(job, pod, token, trust, role, presence), name="follow the job")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([serving, following, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        following.cancel()
        await asyncio.wait([following])
        server.should_exit = True


async def follow(
    job: RLJob, pod: PodEnvironment, token: str, trust: ssl.SSLContext | None, role: Role, presence: Presence
) -> None:
    """Be a member of the job with an engine; runs until cancelled. The engine goes first, then the membership."""
    model = await asyncio.to_thread(prepare_model, job.spec.model, pod.model_dir)
    inference = job.spec.hybrid.inference
    command = build_engine_command(job, pod, model, role)
    engine = Engine(
        EngineSettings(
            command=command,
            token=token,
            trust=trust,
            release=inference.release,
            record_file=pod.shm_dir / "engine.json",
            start_timeout_seconds=job.spec.deadlines.startup,
            max_concurrent_sequences=inference.max_concurrent_sequences,
        )
    )
    keys = JobKeys(job_uid=pod.job_uid)
    url = pod.url(CHECKPOINT_ENGINE_PORT)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(pod.etcd_access()))
        await store.wait_until_reachable(job.spec.deadlines.startup)
        phase = await stack.enter_async_context(Mirror(store, keys.phase, PhaseRecord))
        newest = await stack.enter_async_context(Mirror(store, keys.newest_commit, Commit))
        control = await stack.enter_async_context(Mirror(store, keys.control, Control))
        member = new_member(role, pod.pod_name, pod.pod_name, url, engine.status)
        membership = await stack.enter_async_context(Membership(store, keys, member))
        await stack.enter_async_context(engine)
        stack.push_async_callback(_say_goodbye, membership, engine)
        settings = ServiceSettings(
            role=role,
            pod=pod.pod_name,
            release=inference.release,
            device=job.spec.hybrid.device,
            shm_dir=pod.shm_dir,
            token=token,
            trust=trust,
        )
        presence.service = Service(settings, store, keys, engine, membership, phase, newest, control)
        log.info("following the job", job=job.metadata.name, pod=pod.pod_name, role=role)
        await presence.service.run()


async def _say_goodbye(membership: Membership, engine: Engine) -> None:
    """No new requests, while the engine hands back what it has."""
    with contextlib.suppress(TandemError, TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await membership.update(engine=engine.status.model_copy(update={"state": EngineState.IDLE}))


def _messages(errors: ExceptionGroup[Exception]) -> Iterator[str]:
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _messages(error)
        else:
            yield str(error)


class _Server(uvicorn.Server):
    """Leaves signals alone: the engine is to be ended before the API."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


if __name__ == "__main__":
    sys.exit(main())
