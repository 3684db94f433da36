"""An etcd of a benchmark's own, set up as a run's is."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tandem_local.etcd_server import find_etcd

from tools.free_ports import find_free_ports

HOST = "127.0.0.1"


@contextmanager
def serve_etcd() -> Iterator[str]:
    """host:port; it may not answer yet (Store.wait_until_reachable). Raises RuntimeError if it ended too early."""
    ports = find_free_ports(2)
    client, peer = (f"http://{HOST}:{port}" for port in ports)
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as log:
        command = [str(find_etcd().path), "--data-dir", directory, "--log-level", "error", "--unsafe-no-fsync"]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"default={peer}"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"{HOST}:{ports[0]}"
        finally:
            ended = process.poll()
            process.kill()
            process.wait()
            if ended is not None:
                log.seek(0)
                raise RuntimeError(f"etcd ended by itself, with {ended}: {log.read()[-2000:].decode(errors='replace')}")
