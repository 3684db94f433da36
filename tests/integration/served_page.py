"""The job's page over a made-up job with very many answers, served by the real API: also by itself, for pictures.

python -m tests.integration.served_page DIRECTORY [PORT]
"""

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from tandem_core.coordination.records import EngineState, EngineStatus, Member, Role, Summary
from tandem_core.job import load_job
from tandem_core.phases import Phase
from tandem_rollout.api import Presence, build_api
from tandem_rollout.metrics import JobState
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url

from .many_answers import ENGINES, GROUP_SIZE, GROUPS_AN_ITERATION, add_history, fill

TOKEN = "the-jobs-token"
ANSWERS = 100_000
ITERATIONS = ANSWERS // GROUP_SIZE // GROUPS_AN_ITERATION
JOB = load_job(Path(__file__).parents[2] / "examples" / "addition.yaml", ["metadata.name=sums", "spec.iterations=600"])


def build_presence(buffer: ReplayBuffer) -> Presence:
    """What a master knows in the middle of the iteration after the recorded ones."""
    summary = Summary(
        phase=Phase.ROLLOUT,
        iteration=ITERATIONS + 1,
        iterations=600,
        version=ITERATIONS,
        engines_serving=2,
        message="waiting for sums-hybrid-1",
    )
    engines = [
        _engine(ENGINES[0], Role.SIDECAR, EngineState.SERVING, ITERATIONS),
        _engine(ENGINES[1], Role.SIDECAR, EngineState.STARTING, -1, restarts=1, problem="the disk /dev/shm is full"),
        _engine(ENGINES[2], Role.INFERENCE, EngineState.SERVING, ITERATIONS - 2),
    ]
    return Presence(
        TOKEN, JOB, buffer, observe_job=lambda: JobState(summary), observe_members=lambda: engines, observe_served=list
    )


def _engine(pod: str, role: Role, state: EngineState, version: int, *, restarts: int = 0, problem: str = "") -> Member:
    status = EngineStatus(url="http://engine", state=state, version=version, restarts=restarts)
    return Member(name=pod, role=role, pod=pod, incarnation="a", started_at=0.0, engine=status, problem=problem)


async def fill_job(file: Path) -> None:
    """The replay buffer of a job with ANSWERS answers."""
    await fill(sqlite_url(file), "sums", ANSWERS)
    async with ReplayBuffer(sqlite_url(file), "sums") as buffer:
        await add_history(buffer, ITERATIONS, 1_700_000_000.0)


@contextmanager
def serve_page(file: Path, port: int = 0) -> Iterator[str]:
    """The address of the API over the replay buffer in `file`, answered by a thread."""
    listener = socket.create_server(("127.0.0.1", port))
    started: Future[uvicorn.Server] = Future()

    async def serve() -> None:
        async with ReplayBuffer(sqlite_url(file), "sums") as buffer:
            server = uvicorn.Server(uvicorn.Config(build_api(build_presence(buffer)), log_level="warning"))
            started.set_result(server)
            await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    server = started.result(30)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def main() -> None:
    """Serve it until Ctrl-C."""
    file = Path(sys.argv[1]) / "replay.sqlite"
    if not file.exists():
        asyncio.run(fill_job(file))
    with serve_page(file, int(sys.argv[2]) if len(sys.argv) > 2 else 0) as address:
        print(f"{address}/ui/#token={TOKEN}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
