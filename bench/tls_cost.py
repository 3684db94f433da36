"""What TLS costs the weights on their way between pods.

    python -m bench.tls_cost [--size-mib 1024]

A file in shared memory is fetched through a checkpoint engine's API, in as many ranges at a time as a pod fetches,
plain and encrypted in turn. Both ends share this machine's processors: it is the cost in their time that shows.
"""

import argparse
import asyncio
import ssl
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import uvicorn
from tandem_core.job import load_job
from tandem_core.tls import CERTIFICATE_FILE, KEY_FILE, build_client_context
from tandem_core.weights.merge import RankFile
from tandem_core.weights.plan import FetchRange
from tandem_operator.certificate import make_certificate
from tandem_sidecar.api import Presence, build_api
from tandem_sidecar.transport import CONNECTIONS, HttpTransport, fetch_ranges

from bench.handoff_model import OTHER_ADDRESS, TOKEN
from bench.handoff_tcp import wait_for_port

EXAMPLE = Path(__file__).parent.parent / "examples" / "addition.yaml"
PORTS = {"plain": 8001, "TLS": 8002}
FILE = "weights/0/rank-0.bin"
MIB = 1024 * 1024


def serve(shm_dir: Path, port: int, encrypted: bool) -> None:
    """The checkpoint engine's API over `shm_dir`."""
    api = build_api(Presence("pod-1", "sidecar", TOKEN, shm_dir))
    config = uvicorn.Config(
        api,
        OTHER_ADDRESS,
        port,
        log_level="error",
        ssl_certfile=shm_dir / CERTIFICATE_FILE if encrypted else None,
        ssl_keyfile=shm_dir / KEY_FILE if encrypted else None,
    )
    uvicorn.Server(config).run()


@contextmanager
def serving(shm_dir: Path, port: int, encrypted: bool) -> Iterator[None]:
    """The same in a process of its own."""
    server = get_context("fork").Process(target=partial(serve, shm_dir, port, encrypted), daemon=True)
    server.start()
    try:
        wait_for_port(port)
        yield
    finally:
        server.kill()
        server.join()


def fetch(way: str, trust: ssl.SSLContext, destination: bytearray) -> float:
    """Seconds to fill the destination."""
    url = f"{'https' if way == 'TLS' else 'http'}://{OTHER_ADDRESS}:{PORTS[way]}"
    source = RankFile(0, "pod-1", url, FILE, len(destination))
    size = len(destination) // CONNECTIONS
    ranges = [FetchRange(0, index * size, index * size, size) for index in range(CONNECTIONS)]
    started = time.perf_counter()
    errors = asyncio.run(fetch_ranges(HttpTransport(TOKEN, trust), [source], ranges, memoryview(destination)))
    if errors:
        raise errors[0]
    return time.perf_counter() - started


def main() -> None:
    """Print throughput and ratio."""
    parser = argparse.ArgumentParser(prog="python -m bench.tls_cost", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=1024, help="of the file (default: 1024)")
    parser.add_argument("--repeats", type=int, default=5, help="of each way; medians are printed (default: 5)")
    options = parser.parse_args()
    destination = bytearray(options.size_mib * MIB)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, ExitStack() as stack:
        shm_dir = Path(directory)
        (shm_dir / FILE).parent.mkdir(parents=True)
        (shm_dir / FILE).write_bytes(bytes(destination))
        for name, text in make_certificate(load_job(EXAMPLE)).items():
            (shm_dir / name).write_text(text)
        for way, port in PORTS.items():
            stack.enter_context(serving(shm_dir, port, way == "TLS"))
        trust = build_client_context(shm_dir)
        seconds: dict[str, list[float]] = {way: [] for way in PORTS}
        for _ in range(options.repeats):
            for way in PORTS:
                seconds[way].append(fetch(way, trust, destination))
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    for way, median in medians.items():
        print(f"{way:6} {len(destination) / median / 1e9:6.2f} GB/s")
    print(f"TLS takes {medians['TLS'] / medians['plain']:.1f} times as long")


if __name__ == "__main__":
    main()
