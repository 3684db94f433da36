"""Addresses, names and folders of a cluster: what its parts must agree on."""

import json
from dataclasses import dataclass
from pathlib import Path

CLUSTER_ADDRESS = "10.99.0.1"
"""Of the API server and the DNS server, on the bridge that all nodes are connected to."""
API_PORT = 6443
BRIDGE = "nodes"
POD_NETWORKS = "10.244.0.0/16"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
"""In a node's mounts."""
NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL"]
"""Of a cluster, and again of each node in it: the end of this command is the end of all that runs in them."""


@dataclass(frozen=True)
class NodeLayout:
    """One node of the cluster in `cluster`, a folder."""

    cluster: Path
    index: int

    @property
    def name(self) -> str:
        return f"node{self.index}"

    @property
    def address(self) -> str:
        return f"10.99.0.{10 + self.index}"

    @property
    def pod_network(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def directory(self) -> Path:
        return self.cluster / self.name

    @property
    def off_switch(self) -> Path:
        """While this file exists, the node is not started again when it ends."""
        return self.cluster / f"{self.name}.off"


def control_plane_directory(cluster: Path) -> Path:
    return cluster / "control-plane"


def save_groups(cluster: Path, groups: list[Path]) -> None:
    """Write down the cluster's control groups, so that they can be removed after it."""
    (cluster / "cgroups.json").write_text(json.dumps([str(group) for group in groups]))


def load_groups(cluster: Path) -> list[Path]:
    file = cluster / "cgroups.json"
    return [Path(group) for group in json.loads(file.read_text())] if file.exists() else []


def ready_file(cluster: Path) -> Path:
    """Exists when all nodes are ready."""
    return cluster / "ready"


def host_kubeconfig(cluster: Path) -> Path:
    """For use on the machine, outside the cluster's namespaces."""
    return cluster / "kubeconfig"
