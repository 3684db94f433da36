"""Loopback addresses for a run's pods."""

import errno
import hashlib
import ipaddress
import socket
from collections.abc import Iterable

import psutil
from tandem_core.errors import TandemError

_CANDIDATES = 64
_BLOCKS = 253 * 256  # 127.1.0.0/24 to 127.253.255.0/24: clear of 127.0.0.0/16, which other programs like


class AddressesTaken(TandemError):
    """A port that pods need is taken on all addresses."""


def candidate_block(run_id: str, attempt: int) -> ipaddress.IPv4Network:
    """The /24 in 127.0.0.0/8 that a run tries at its `attempt`: scattered, so that runs seldom meet. Pure."""
    digest = hashlib.blake2b(f"{run_id} {attempt}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest) % _BLOCKS
    return ipaddress.IPv4Network((f"127.{1 + number // 256}.{number % 256}.0", 24))


def find_address_block(run_id: str, ports: Iterable[int]) -> ipaddress.IPv4Network:
    """A /24 in 127.0.0.0/8 in which nobody listens and all of `ports` can be listened on. Raises AddressesTaken."""
    wanted = sorted(set(ports))
    busy = {address for address, _, _ in _observe_listeners()}
    taken: int | None = None
    for attempt in range(_CANDIDATES):
        block = candidate_block(run_id, attempt)
        if any(ipaddress.ip_address(address) in block for address in busy if "." in address):
            continue
        taken = next((port for port in wanted if not can_listen(str(block[1]), port)), None)
        if taken is None:
            return block
    raise AddressesTaken(describe_taken_port(taken))


def can_listen(address: str, port: int) -> bool:
    """Whether a server could be started there now. Raises OSError where the address is no loopback address at all."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            return False
    return True


def describe_taken_port(port: int | None) -> str:
    """Who listens on `port` on all addresses, and what to do."""
    if port is None:
        return f"no free block of loopback addresses among {_CANDIDATES} tried: end runs that you do not need"
    holders = [f"{name} (process {pid})" for _, taken, (pid, name) in _observe_listeners() if taken == port]
    whom = ", ".join(holders) or "a process of another user"
    return (
        f"port {port} is taken on all addresses of this machine, by {whom}: end it, or let it listen on 127.0.0.1 "
        "only. Each pod has an address of its own, but not one that somebody holds everywhere"
    )


def _observe_listeners() -> list[tuple[str, int, tuple[int, str]]]:
    """Address, port, and process id and name of everybody who listens."""
    listeners = []
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            pid = connection.pid or 0
            listeners.append((connection.laddr.ip, connection.laddr.port, (pid, _process_name(pid))))
    return listeners


def _process_name(pid: int) -> str:
    try:
        return psutil.Process(pid).name() if pid else "?"
    except psutil.Error:
        return "?"
