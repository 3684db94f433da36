"""Start and end a cluster: control plane and nodes in private namespaces, all that it writes in one folder."""

import os
import shutil
import socket
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from . import cgroups
from .images import write_images
from .layout import (
    CONTAINERD_SOCKET,
    NAMESPACES,
    NodeLayout,
    control_plane_directory,
    host_kubeconfig,
    load_groups,
    ready_file,
    save_groups,
)
from .programs import CONTROL_PLANE, NODE, PAUSE, SOURCE, ProgramsMissing, find_programs
from .services import wait_until

_ROOT = SOURCE.parent.parent


class ClusterError(RuntimeError):
    """The cluster could not be started or ended: what happened, and what to do."""


@dataclass(frozen=True)
class Cluster:
    """A cluster whose files are in `directory`, running or not."""

    directory: Path

    @property
    def kubeconfig(self) -> Path:
        """Works on the machine, outside the namespaces."""
        return host_kubeconfig(self.directory)

    def is_running(self) -> bool:
        return self._process() is not None

    def start(self, nodes: int = 1, gpus: int = 2) -> None:
        """Return when all nodes are ready. Raises ClusterError or ProgramsMissing, and then leaves nothing behind."""
        programs = find_programs(CONTROL_PLANE + NODE)
        check_machine()
        if self.is_running():
            raise ClusterError(f"a cluster is running in {self.directory}: end it with `make cluster-down`")
        self.stop()
        self.directory.mkdir(parents=True)
        write_images(self.directory / "images.tar", programs, programs / PAUSE.file_name)
        groups = cgroups.make_cluster_groups(f"tandem-cluster-{uuid.uuid4().hex[:8]}")
        save_groups(self.directory, groups)
        try:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = int(listener.getsockname()[1])
                process = self._launch(nodes, gpus, listener.fileno(), groups)
            self._wait_until_ready(process)
        except BaseException:
            self.stop()
            raise
        self._write_kubeconfig(port)

    def stop(self) -> None:
        """End it, if it runs, and remove all that it made. Raises ClusterError if something stays."""
        process = self._process()
        if process is not None:
            process.kill()  # the namespaces end with it, and with them all processes, mounts and interfaces
            process.wait(30)
        if left := cgroups.remove(load_groups(self.directory)):
            raise ClusterError(f"control groups are left over: {', '.join(map(str, left))}: a process is still in them")
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            raise ClusterError(f"{self.directory} could not be removed: remove it by hand")

    def find_process(self, name: str, node: int) -> psutil.Process:
        """The process of a service (kubelet, containerd ...) of a node. Raises LookupError."""
        for process in self._node_process(node).children(recursive=True):
            if process.name() == name[:15]:
                return process
        raise LookupError(f"no process {name} on node {node}")

    def processes(self) -> list[psutil.Process]:
        """All, those of pods among them."""
        process = self._process()
        return process.children(recursive=True) if process is not None else []

    def lose_node(self, node: int) -> None:
        """End a node without warning; it stays away until `return_node`."""
        NodeLayout(self.directory, node).off_switch.touch()
        self._node_process(node).kill()

    def return_node(self, node: int) -> None:
        """Start a lost node again: as a machine starts again, with its disk and without its processes."""
        NodeLayout(self.directory, node).off_switch.unlink()

    def import_image(self, archive: Path, node: int = 0) -> None:
        """Give the image in `archive` (docker-archive) to a node. Raises ClusterError."""
        containerd = self.find_process("containerd", node)
        ctr = [str(find_programs(NODE) / "ctr"), "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]
        inside = ["nsenter", f"--target={containerd.pid}", "--mount"]
        # Once unpacked, layers as they came are no longer needed, and they are large.
        command = [*inside, *ctr, "images", "import", "--local", "--discard-unpacked-layers", str(archive)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"the node did not take the image {archive.name}: {done.stderr[-1000:]}")

    def _node_process(self, node: int) -> psutil.Process:
        wanted = ["-m", "tools.cluster.node", str(self.directory), str(node)]
        for each in self.processes():
            words = each.cmdline()
            if words[:1] == ["unshare"] and all(word in words for word in wanted):
                return each
        raise LookupError(f"node {node} does not run")

    def _process(self) -> psutil.Process | None:
        """`unshare`, the parent of process 1."""
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if words[:1] == ["unshare"] and "tools.cluster.inside" in words and str(self.directory) in words:
                return process
        return None

    def _launch(self, nodes: int, gpus: int, fd: int, groups: list[Path]) -> "subprocess.Popen[bytes]":
        inside = [sys.executable, "-m", "tools.cluster.inside", str(self.directory), str(nodes), str(gpus), str(fd)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*NAMESPACES, *inside],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(fd,),
                start_new_session=True,
                preexec_fn=lambda: cgroups.enter(groups),
            )

    @property
    def _log(self) -> Path:
        return self.directory / "inside.log"

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        wait_until(
            lambda: ready_file(self.directory).exists() or process.poll() is not None, "the nodes are ready", 180
        )
        if not ready_file(self.directory).exists():
            raise ClusterError(f"the cluster ended as it started:\n{self._log.read_text()[-2000:]}")

    def _write_kubeconfig(self, port: int) -> None:
        config = yaml.safe_load((control_plane_directory(self.directory) / "kubeconfig").read_text())
        # The server's certificate has this name beside the address that is only known inside.
        config["clusters"][0]["cluster"]["server"] = f"https://localhost:{port}"
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(yaml.safe_dump(config))


def check_machine() -> None:
    """Raises ProgramsMissing if this machine or user cannot run a node."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ProgramsMissing(
            "a cluster with a node needs Linux and root: become root, or name a cluster of yours in TANDEM_KUBECONFIG"
        )
    missing = [name for name in ("unshare", "nsenter", "ip", "iptables", "openssl") if not shutil.which(name)]
    if missing:
        raise ProgramsMissing(f"not on PATH: {', '.join(missing)}: run tools/install-debian-packages as root")
