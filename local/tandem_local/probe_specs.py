"""A container's probes as plain values, with Kubernetes' defaults. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tandem_local.kubernetes_values import KubernetesObject, UnsupportedObject

SHORTEST_TIMEOUT_SECONDS = 5.0
"""Kubernetes' default of 1 s is for processes that have the cores they asked for; here all share a few."""


@dataclass(frozen=True)
class HttpCheck:
    """Passes when a GET answers with 200 to 399."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TcpCheck:
    """Passes when the port takes a connection."""

    host: str
    port: int


@dataclass(frozen=True)
class ExecCheck:
    """Passes when the command, run with the container's environment, exits with 0."""

    command: tuple[str, ...]


type Check = HttpCheck | TcpCheck | ExecCheck


@dataclass(frozen=True)
class Probe:
    """What to check, and how often; times in seconds."""

    check: Check
    initial_delay_seconds: float = 0.0
    period_seconds: float = 10.0
    timeout_seconds: float = SHORTEST_TIMEOUT_SECONDS
    success_threshold: int = 1
    failure_threshold: int = 3


def parse_probe(probe: KubernetesObject | None, ports: Sequence[KubernetesObject], address: str) -> Probe | None:
    """The probe of a container with these `ports` in a pod with this `address`; None stays None.

    Raises UnsupportedObject for gRPC probes and unknown port names.
    """
    if probe is None:
        return None
    return Probe(
        parse_check(probe, ports, address),
        initial_delay_seconds=float(probe.get("initialDelaySeconds", 0)),
        period_seconds=float(probe.get("periodSeconds", 10)),
        timeout_seconds=max(float(probe.get("timeoutSeconds", 1)), SHORTEST_TIMEOUT_SECONDS),
        success_threshold=int(probe.get("successThreshold", 1)),
        failure_threshold=int(probe.get("failureThreshold", 3)),
    )


def parse_check(handler: KubernetesObject, ports: Sequence[KubernetesObject], address: str) -> Check:
    """What an httpGet, tcpSocket or exec handler does."""
    match handler:
        case {"httpGet": get}:
            host, port = get.get("host") or address, _port(get["port"], ports)
            path = "/" + str(get.get("path", "/")).lstrip("/")
            headers = tuple((header["name"], header["value"]) for header in get.get("httpHeaders", []))
            return HttpCheck(f"{str(get.get('scheme', 'HTTP')).lower()}://{host}:{port}{path}", headers)
        case {"tcpSocket": socket}:
            return TcpCheck(socket.get("host") or address, _port(socket["port"], ports))
        case {"exec": {"command": command}}:
            return ExecCheck(tuple(command))
    raise UnsupportedObject(f"a probe is none of httpGet, tcpSocket and exec: {handler}")


def _port(port: int | str, ports: Sequence[KubernetesObject]) -> int:
    if isinstance(port, int) or port.isdigit():
        return int(port)
    for known in ports:
        if known.get("name") == port:
            return int(known["containerPort"])
    raise UnsupportedObject(
        f"a probe names port {port!r}, but the container's ports are {[p.get('name') for p in ports]}"
    )
