"""Ports for servers that tests and benchmarks start."""

import random
import socket

_CANDIDATES = range(12_000, 30_000)
"""Below those that the system gives to connections, and to whom asks for any: a server takes its own seconds later."""


def find_free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses now."""
    ports = (port for port in random.sample(_CANDIDATES, len(_CANDIDATES)) if _is_free(port))
    return [port for port, _ in zip(ports, range(count), strict=False)]


def find_free_port() -> int:
    """One of them."""
    return find_free_ports(1)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
