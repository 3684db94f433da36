"""The cluster's programs: built from pinned Go modules into a cache outside the tree, once for each set of pins."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent
CACHE_VARIABLE = "TANDEM_CLUSTER_CACHE"
_VERSION_VARIABLES = "k8s.io/component-base/version"


class ProgramsMissing(RuntimeError):
    """The programs are not built and cannot be: the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Program:
    name: str
    package: str
    module: str = "."
    """Folder of its go.mod below this one; what has a module graph of its own has a go.mod of its own."""
    tags: str = ""
    cgo: bool = False

    @property
    def file_name(self) -> str:
        """Of our own small programs a change must not bring back an old build: the name has a digest of the source.

        So has that of a program whose pins the folder's name does not tell.
        """
        if self.package.startswith("."):
            source = (SOURCE / self.module / self.package / "main.go").read_bytes()
        elif self.module in OTHER_MODULES:
            source = (SOURCE / self.module / "go.sum").read_bytes()
        else:
            return self.name
        return f"{self.name}-{hashlib.sha256(source).hexdigest()[:8]}"


CONTROL_PLANE = (
    *(Program(name, f"k8s.io/kubernetes/cmd/{name}") for name in ("kube-apiserver", "kubectl")),
    Program("etcd", "go.etcd.io/etcd/server/v3"),
    *(Program(name, f"k8s.io/kubernetes/cmd/{name}") for name in ("kube-controller-manager", "kube-scheduler")),
)
FAKEGPU, PROVISIONER, PAUSE = (Program(name, f"./programs/{name}") for name in ("fakegpu", "provisioner", "pause"))
COREDNS = Program("coredns", ".", "programs/coredns")
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
_CNI = "github.com/containernetworking/plugins/plugins"
NODE = (
    *(Program(name, f"k8s.io/kubernetes/cmd/{name}") for name in ("kubelet", "kube-proxy")),
    FAKEGPU,
    PROVISIONER,
    PAUSE,
    *(
        Program(name, f"{_CONTAINERD}/{name}", "programs/containerd", "no_btrfs,no_devmapper,no_zfs")
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    ),
    Program("runc", "github.com/opencontainers/runc", "programs/runc", "seccomp", cgo=True),
    *(Program(Path(each).name, f"{_CNI}/{each}", "programs/cni") for each in ("main/bridge", "main/loopback")),
    Program("host-local", f"{_CNI}/ipam/host-local", "programs/cni"),
    COREDNS,
)
HELM = Program("helm", "helm.sh/helm/v4/cmd/helm", "programs/helm")
ADAPTER = Program("adapter", "sigs.k8s.io/prometheus-adapter/cmd/adapter", "programs/adapter")
"""Built by the test that needs it: it takes some minutes."""
OTHER_MODULES = (HELM.module, ADAPTER.module)
"""What is no part of a cluster: other pins of these leave the cluster's programs as they are."""


def find_cache() -> Path:
    """Where the programs of these pins are, or would be."""
    digest = hashlib.sha256()
    others = [SOURCE / module for module in OTHER_MODULES]
    pins = [*SOURCE.rglob("go.mod"), *SOURCE.rglob("go.sum")]
    for file in sorted(each for each in pins if each.parent not in others):
        digest.update(file.relative_to(SOURCE).as_posix().encode() + b"\0" + file.read_bytes())
    base = os.environ.get(CACHE_VARIABLE)
    root = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem/cluster"
    return root / digest.hexdigest()[:16]


def find_programs(programs: tuple[Program, ...]) -> Path:
    """The folder with all of `programs`; raises ProgramsMissing if one is not built."""
    cache = find_cache()
    if missing := [program.name for program in programs if not (cache / program.file_name).exists()]:
        raise ProgramsMissing(f"{', '.join(missing)} not in {cache}: run `make cluster-build` (about 20 minutes, once)")
    return cache


def build_programs(programs: tuple[Program, ...] = (*CONTROL_PLANE, *NODE, HELM)) -> Path:
    """Build what is missing and return the folder; raises ProgramsMissing where the machine cannot."""
    cache = find_cache()
    if all((cache / program.file_name).exists() for program in programs):
        return cache
    _check_tools(programs)
    cache.mkdir(parents=True, exist_ok=True)
    with _hold(cache / ".lock"):  # of two builds at once, the second finds the first one's programs
        for program in programs:
            if not (cache / program.file_name).exists():
                _build(program, cache)
    return cache


@contextmanager
def _hold(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_tools(programs: tuple[Program, ...]) -> None:
    if shutil.which("go") is None:
        raise ProgramsMissing("the Go toolchain is not on PATH: install Go 1.26 or newer (go.dev/dl)")
    if not any(program.cgo for program in programs):
        return
    if shutil.which("gcc") is None or not list(Path("/usr/include").rglob("seccomp.h")):
        raise ProgramsMissing("runc needs gcc and libseccomp's headers: run tools/install-debian-packages as root")


def _build(program: Program, cache: Path) -> None:
    started = time.monotonic()
    print(f"Building {program.name} ...", end=" ", flush=True)
    partial = cache / f"{program.name}.partial"
    flags = "-s -w" + (_version_flags() if program.package.startswith("k8s.io/") else "")
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", flags, "-tags", program.tags]
    environment = os.environ | {"CGO_ENABLED": "1" if program.cgo else "0", "GOFLAGS": "", "GOWORK": "off"}
    done = subprocess.run(
        [*command, "-o", str(partial), program.package], cwd=SOURCE / program.module, env=environment, check=False
    )
    if done.returncode != 0:
        raise ProgramsMissing(f"go could not build {program.package}: its messages are above")
    partial.rename(cache / program.file_name)
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def _version_flags() -> str:
    """What `kubectl version` and the compatibility checks of the servers read."""
    found = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", (SOURCE / "go.mod").read_text())
    if found is None:
        raise ProgramsMissing(f"{SOURCE / 'go.mod'} does not name k8s.io/kubernetes: restore it")
    version, major, minor = found.groups()
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return "".join(f" -X {_VERSION_VARIABLES}.{name}={value}" for name, value in values.items())
