"""`python -m tools.cluster.inside DIR NODES GPUS SOCKET`: process 1 of a cluster's namespaces.

It runs what is not on a node: the bridge between nodes, the control plane, DNS, volumes, and the nodes' own namespaces.
"""

import signal
import subprocess
import sys
from pathlib import Path

from .control_plane import ControlPlane
from .layout import API_PORT, BRIDGE, CLUSTER_ADDRESS, NAMESPACES, NodeLayout, control_plane_directory, ready_file
from .programs import CONTROL_PLANE, COREDNS, NODE, PROVISIONER, find_programs
from .services import Services, run, wait_until

_COREFILE = """
.:53 {{
  bind {address}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 0
  }}
}}
"""


def connect(nodes: list[NodeLayout]) -> None:
    """The bridge, and from it the ways to the pods."""
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "proc", "proc", "/proc")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{CLUSTER_ADDRESS}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for node in nodes:
        run("ip", "route", "add", node.pod_network, "via", node.address)


def start_nodes(nodes: list[NodeLayout], gpus: int, services: Services) -> None:
    """Each in namespaces of its own: its end is the end of all that runs on it."""
    for node in nodes:
        command = [sys.executable, "-m", "tools.cluster.node", str(node.cluster), str(node.index), str(len(nodes))]
        services.start(node.name, [*NAMESPACES, *command, str(gpus)], off_switch=node.off_switch)


def start_shared(cluster: Path, kubeconfig: Path, services: Services) -> None:
    """DNS and volumes."""
    programs = find_programs(NODE)
    corefile = cluster / "Corefile"
    corefile.write_text(_COREFILE.format(address=CLUSTER_ADDRESS, kubeconfig=kubeconfig))
    services.start("coredns", [str(programs / COREDNS.file_name), "-conf", str(corefile)])
    volumes = cluster / "volumes"
    volumes.mkdir()
    services.start(
        "provisioner", [str(programs / PROVISIONER.file_name), f"--kubeconfig={kubeconfig}", f"--folder={volumes}"]
    )


def main() -> None:
    cluster, count, gpus, socket = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    nodes = [NodeLayout(cluster, index) for index in range(count)]
    programs = find_programs(CONTROL_PLANE)
    connect(nodes)
    with Services(cluster / "logs") as services:
        forward = [sys.executable, "-m", "tools.cluster.forward", str(socket), CLUSTER_ADDRESS, str(API_PORT)]
        services.start("forward", forward, fds=(socket,))
        plane = ControlPlane(programs, control_plane_directory(cluster), services, CLUSTER_ADDRESS, API_PORT)
        start_nodes(nodes, gpus, services)  # their runtimes start while the control plane does
        plane.start()
        start_shared(cluster, plane.kubeconfig, services)
        kubectl = [str(programs / "kubectl"), "--kubeconfig", str(plane.kubeconfig)]
        run(*kubectl, "apply", "-f", str(Path(__file__).parent / "objects.yaml"))
        wait_until(lambda: _nodes_are_ready(kubectl, count), f"{count} nodes are ready and publish their GPUs")
        ready_file(cluster).touch()
        services.reap_orphans()


def _nodes_are_ready(kubectl: list[str], count: int) -> bool:
    ready = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
    found = _output(*kubectl, "get", "nodes", "-o", f"jsonpath={ready}").split()
    pools = _output(*kubectl, "get", "resourceslices", "-o", "jsonpath={.items[*].spec.nodeName}").split()
    return found == ["True"] * count and len(pools) >= count


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main()
