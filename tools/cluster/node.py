"""`python -m tools.cluster.node DIR INDEX NODES GPUS`: process 1 of a node's own namespaces.

It stands for a machine and its init: mounts, network, containerd, kubelet, kube-proxy, the driver of the fake GPUs.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from . import cgroups, runc_with_order
from .images import PAUSE_IMAGE, machine_folders
from .layout import (
    BRIDGE,
    CLUSTER_ADDRESS,
    CONTAINERD_SOCKET,
    POD_NETWORKS,
    NodeLayout,
    control_plane_directory,
    load_groups,
)
from .programs import FAKEGPU, NODE, find_programs
from .services import Services, run, wait_until

_KUBELET = Path("/run/kubelet")
# The kubelet would WRITE these, and they belong to the whole machine: it is shown files that hold what it wants.
_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}


def connect(node: NodeLayout, nodes: int) -> None:
    """A cable to the cluster's bridge and the routes to the pods of other nodes. /proc is still the cluster's."""
    cluster = "/proc/1/ns/net"
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", node.name, "netns", cluster)
    run("nsenter", f"--net={cluster}", "ip", "link", "set", node.name, "master", BRIDGE, "up")
    run("ip", "address", "add", f"{node.address}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    for other in (NodeLayout(node.cluster, index) for index in range(nodes) if index != node.index):
        run("ip", "route", "add", other.pod_network, "via", other.address)
    # The kubelet wants a default route to find its address; it leads to the bridge, and from there nowhere.
    run("ip", "route", "add", "default", "via", CLUSTER_ADDRESS)


def mount(node: NodeLayout) -> None:
    """What this node sees of the machine's files: all, but for what nodes write."""
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "proc", "proc", "/proc")
    _mount_cgroups(node.directory / "cgroup")
    run("mount", "--make-rshared", "/")  # mounts reach the pods
    for covered in ("/run", "/var/log"):
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", covered)
    _cover(Path("/var/lib"), node.directory / "var-lib")
    for folder in (_KUBELET, Path("/run/cdi"), Path("/run/containerd"), Path("/run/netns")):
        folder.mkdir()
    # emptyDirs lie here: on the disk, not in the memory that /run is.
    (node.directory / "kubelet").mkdir(exist_ok=True)
    run("mount", "--bind", str(node.directory / "kubelet"), str(_KUBELET))
    run("mount", "--make-shared", str(_KUBELET))
    for name, value in _SYSCTLS.items():
        file = node.directory / f"sysctl-{Path(name).name}"
        file.write_text(f"{value}\n")
        run("mount", "--bind", str(file), f"/proc/sys/{name}")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _cover(folder: Path, upper: Path) -> None:
    """What is written below `folder` (by kubelet and plugins, at fixed paths) lands in `upper`."""
    work = upper.with_name(f"{upper.name}-work")
    for each in (upper, work):
        each.mkdir(exist_ok=True)
    options = f"lowerdir={folder},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "-o", options, "overlay", str(folder))


def _mount_cgroups(place: Path) -> None:
    """The control groups below the node's own, which stand as the root."""
    place.mkdir(exist_ok=True)
    if cgroups.is_version_2():
        run("mount", "-t", "cgroup2", "cgroup2", str(place))
    else:
        hierarchies = cgroups.list_hierarchies()
        run("mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", str(place))
        for name in hierarchies:
            (place / name).mkdir()
            options = "none,name=systemd" if name == "systemd" else name
            run("mount", "-t", "cgroup", "-o", options, "cgroup", str(place / name))
    run("umount", "-l", "-R", str(cgroups.ROOT))
    run("mount", "--move", str(place), str(cgroups.ROOT))


def start_runtime(node: NodeLayout, programs: Path, services: Services) -> None:
    """containerd with the cluster's images and the network of pods; returns when it answers."""
    network = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-addresses",
                    "ranges": [[{"subnet": node.pod_network}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
    folder = node.directory / "cni"
    folder.mkdir(exist_ok=True)
    (folder / "pods.conflist").write_text(json.dumps(network))
    _write_container_spec(node.directory / "container.json", programs)
    runc = node.directory / "runc"
    runc.write_text(f'#!/bin/sh\nexec {sys.executable} -ISP {Path(runc_with_order.__file__)} {programs}/runc "$@"\n')
    runc.chmod(0o755)
    config = node.directory / "containerd.toml"
    config.write_text(build_containerd_config(node, programs, runc))
    services.start("containerd", [str(programs / "containerd"), "--config", str(config)])
    ctr = [str(programs / "ctr"), "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]
    wait_until(
        lambda: subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0, "containerd"
    )
    run(*ctr, "images", "import", "--local", str(node.cluster / "images.tar"))


def _write_container_spec(file: Path, programs: Path) -> None:
    """What every container has beside what its pod asks for: the machine's programs."""
    default = subprocess.run([str(programs / "ctr"), "oci", "spec"], capture_output=True, check=True)
    spec = json.loads(default.stdout)
    spec["mounts"] += [
        {"destination": str(each), "source": str(each), "type": "bind", "options": ["rbind", "ro", "nosuid"]}
        for each in machine_folders(programs)
    ]
    file.write_text(json.dumps(spec))


def build_containerd_config(node: NodeLayout, programs: Path, runc: Path) -> str:
    """restrict_oom_score_adj: root may lack CAP_SYS_RESOURCE (as in a container), and then no pod would start."""
    return f"""
version = 3
root = "{node.directory}/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins.'io.containerd.internal.v1.opt']
path = "{node.directory}/containerd/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
enable_cdi = true
cdi_spec_dirs = ["/run/cdi"]
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{node.directory}/container.json"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{programs}"]
conf_dir = "{node.directory}/cni"
"""


def start_kubelet(node: NodeLayout, programs: Path, services: Services, kubeconfig: Path) -> None:
    """Eviction and image collection are off: a full disk of the machine must not evict the tests' pods."""
    resolver = node.directory / "resolv.conf"
    resolver.write_text(f"nameserver {CLUSTER_ADDRESS}\n")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "protectKernelDefaults": True,
        "clusterDNS": [CLUSTER_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolver),
        "podLogsDir": str(node.directory / "pod-logs"),
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 10,
        "syncFrequency": "5s",
    }
    flags = [f"--hostname-override={node.name}", f"--node-ip={node.address}", f"--root-dir={_KUBELET}"]
    flags += [f"--config={_write_yaml(node.directory / 'kubelet.yaml', config)}", f"--kubeconfig={kubeconfig}"]
    services.start("kubelet", [str(programs / "kubelet"), *flags])


def start_proxy(node: NodeLayout, programs: Path, services: Services, kubeconfig: Path) -> None:
    """Addresses of Services."""
    untouched = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": POD_NETWORKS,
        "hostnameOverride": node.name,
        "conntrack": untouched,
    }
    file = _write_yaml(node.directory / "kube-proxy.yaml", config)
    services.start("kube-proxy", [str(programs / "kube-proxy"), f"--config={file}"])


def start_gpus(node: NodeLayout, programs: Path, services: Services, kubeconfig: Path, count: int) -> None:
    """The DRA driver; it is started again until the kubelet is there."""
    flags = [f"--kubeconfig={kubeconfig}", f"--node={node.name}", f"--gpus={count}", f"--kubelet-dir={_KUBELET}"]
    services.start("fakegpu", [str(programs / FAKEGPU.file_name), *flags])


def main() -> None:
    cluster, index, nodes, gpus = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    node = NodeLayout(cluster, index)
    node.directory.mkdir(exist_ok=True)
    programs = find_programs(NODE)
    os.environ["PATH"] += f":{programs}"  # containerd looks for its shim there
    cgroups.enter_node_group(load_groups(cluster), node.name)
    connect(node, nodes)
    mount(node)
    run("hostname", node.name)
    kubeconfig = control_plane_directory(cluster) / "kubeconfig"
    with Services(node.directory / "logs") as services:
        start_runtime(node, programs, services)
        wait_until(kubeconfig.exists, "the control plane's kubeconfig")
        for start in (start_kubelet, start_proxy):
            start(node, programs, services, kubeconfig)
        start_gpus(node, programs, services, kubeconfig, gpus)
        services.reap_orphans()


def _write_yaml(file: Path, content: object) -> Path:
    file.write_text(yaml.safe_dump(content))
    return file


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main()
