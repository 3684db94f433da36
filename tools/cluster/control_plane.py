"""etcd, API server, controller manager and scheduler: all of Kubernetes that needs no node."""

import base64
import secrets
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.free_ports import find_free_ports

from .programs import CONTROL_PLANE, find_programs
from .services import Services, wait_until

SERVICE_NETWORK = "10.96.0.0/24"
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "users": ["system:serviceaccount:tandem-system:tandem-operator"]},
        {"level": "None"},
    ],
}
"""What the operator asks for is noted, so that its role can be compared with it."""


@dataclass(frozen=True)
class ControlPlane:
    """Where the parts are. All that they write is in `directory`."""

    programs: Path
    directory: Path
    services: Services
    address: str = "127.0.0.1"
    """What the API server listens on and tells pods to use."""
    port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    scheduler: bool = True

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.directory / "audit.log"

    def start(self) -> None:
        """Start all and return when the API server is ready and the default namespace has its ServiceAccount."""
        self.directory.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(16)
        (self.directory / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        key = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(self._file("sa.key"))]
        subprocess.run(key, check=True, capture_output=True)
        proxy = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        proxy += ["-subj", "/CN=front-proxy", "-addext", "extendedKeyUsage=clientAuth", "-days", "3650"]
        proxy += ["-keyout", str(self._file("proxy.key")), "-out", str(self._file("proxy.crt"))]
        subprocess.run(proxy, check=True, capture_output=True)
        self._start_etcd()
        self._start_api_server()
        wait_until(self._file("certs/apiserver.crt").exists, "the API server's certificate")
        write_kubeconfig(
            self.kubeconfig, f"https://{self.address}:{self.port}", token, self._file("certs/apiserver.crt").read_text()
        )
        self._wait_for_api("/readyz", token)
        self._start_controllers()
        self._wait_for_api("/api/v1/namespaces/default/serviceaccounts/default", token)

    def _file(self, name: str) -> Path:
        return self.directory / name

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self.etcd_peer_port))
        command = [self._program("etcd"), "--data-dir", str(self._file("etcd")), "--unsafe-no-fsync"]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        self.services.start("etcd", command)

    def _start_api_server(self) -> None:
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self.etcd_port}",
            "secure-port": str(self.port),
            "bind-address": "0.0.0.0" if self.address != "127.0.0.1" else self.address,  # noqa: S104 - in a namespace
            "advertise-address": self.address,
            "cert-dir": str(self._file("certs")),
            "token-auth-file": str(self._file("tokens.csv")),
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": str(self._file("sa.key")),
            "service-account-signing-key-file": str(self._file("sa.key")),
            "service-cluster-ip-range": SERVICE_NETWORK,
            "allow-privileged": "true",
            "proxy-client-cert-file": str(self._file("proxy.crt")),  # shows API servers behind it who asks
            "proxy-client-key-file": str(self._file("proxy.key")),
            "requestheader-client-ca-file": str(self._file("proxy.crt")),
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "enable-aggregator-routing": "true",  # to their addresses: nothing here knows those of Services
            "kubelet-preferred-address-types": "InternalIP",  # nothing resolves the names of nodes
            "enable-admission-plugins": "OwnerReferencesPermissionEnforcement",  # as OpenShift does
            "audit-policy-file": str(self._file("audit-policy.yaml")),
            "audit-log-path": str(self.audit_log),
        }
        self._file("audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
        if self.address == "127.0.0.1":  # it may not be announced in a Service; there are no pods that would use it
            flags["endpoint-reconciler-type"] = "none"
            del flags["advertise-address"]
        self.services.start("kube-apiserver", [self._program("kube-apiserver"), *_flags(flags)])

    def _start_controllers(self) -> None:
        shared = {"kubeconfig": str(self.kubeconfig), "leader-elect": "false", "secure-port": "0"}
        manager = shared | {
            "service-account-private-key-file": str(self._file("sa.key")),
            "root-ca-file": str(self._file("certs/apiserver.crt")),
            "use-service-account-credentials": "false",
            "node-monitor-period": "1s",
            "node-monitor-grace-period": "12s",
            "horizontal-pod-autoscaler-sync-period": "5s",
            "kube-api-qps": "500",  # as on large clusters: the default removes 20 objects a second
            "kube-api-burst": "1000",
        }
        self.services.start("kube-controller-manager", [self._program("kube-controller-manager"), *_flags(manager)])
        if self.scheduler:
            self.services.start("kube-scheduler", [self._program("kube-scheduler"), *_flags(shared)])

    def _program(self, name: str) -> str:
        return str(self.programs / name)

    def _wait_for_api(self, path: str, token: str) -> None:
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}")
        request.add_header("Authorization", f"Bearer {token}")
        unverified = ssl._create_unverified_context()  # noqa: S323 - the certificate was made a moment ago, here

        def answers() -> bool:
            try:
                with urllib.request.urlopen(request, timeout=5, context=unverified):  # noqa: S310
                    return True
            except (urllib.error.URLError, OSError):
                return False

        try:
            wait_until(answers, f"the API server does not answer {path}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}. Its last lines:\n{self.services.log_tail('kube-apiserver')}") from None


@contextmanager
def serve_control_plane(*, scheduler: bool = True) -> Iterator[Path]:
    """A control plane of its own on free ports of this machine's loopback; its kubeconfig. Seconds to start."""
    programs = find_programs(CONTROL_PLANE)
    with tempfile.TemporaryDirectory(prefix="tandem-control-plane-") as folder:
        directory = Path(folder)
        with Services(directory / "logs", restart=False) as services:
            port, etcd_port, etcd_peer_port = find_free_ports(3)
            plane = ControlPlane(
                programs,
                directory,
                services,
                port=port,
                etcd_port=etcd_port,
                etcd_peer_port=etcd_peer_port,
                scheduler=scheduler,
            )
            plane.start()
            yield plane.kubeconfig


def _flags(values: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def write_kubeconfig(file: Path, server: str, token: str, authority: str) -> None:
    """An administrator's; `authority` is the PEM text with the authority of the server's certificate."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority.encode()).decode()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tandem", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "tandem", "context": {"cluster": "tandem", "user": "admin"}}],
        "current-context": "tandem",
    }
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config))
