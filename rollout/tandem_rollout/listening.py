"""Where the master's HTTP API listens."""

import ipaddress
import socket

from tandem_core.errors import TandemError


def listen(address: str, port: int) -> list[socket.socket]:
    """Sockets on the pod's address, and in a pod with one of its own on 127.0.0.1: there `kubectl port-forward` knocks.

    Raises TandemError if the port is taken.
    """
    addresses = [address] if ipaddress.ip_address(address).is_loopback else [address, "127.0.0.1"]
    try:
        return [socket.create_server((each, port), family=_family(each)) for each in addresses]
    except OSError as error:
        raise TandemError(f"cannot listen on {' and '.join(addresses)}, port {port}: {error.strerror}") from error


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
