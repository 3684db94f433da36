"""The operator as a process of its own, with the rights of its ServiceAccount and an etcd of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.chart import NAMESPACE, ROOT

STRANGE_KINDS = (
    ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    ("scheduling.volcano.sh", "v1beta1", "PodGroup", "podgroups"),
    ("scheduling.x-k8s.io", "v1alpha1", "PodGroup", "podgroups"),
)
"""Kinds that other projects bring to a cluster."""


@dataclass(frozen=True)
class OperatorProgram:
    """How to start it."""

    kubeconfig: Path
    """Of its ServiceAccount."""
    etcd: str

    @contextmanager
    def run(self, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A running process, which is killed at the end; it may be dead by then."""
        command = [sys.executable, "-m", "tandem_operator", "--port=0", f"--etcd-endpoints={self.etcd}", *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        with log.open("ab") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def install(kubectl: list[str], kubeconfig: Path, directory: Path) -> Path:
    """Namespace, roles and the kinds of others; the kubeconfig of the operator's ServiceAccount."""
    strange = [_build_crd(*names) for names in STRANGE_KINDS]
    parts = [(ROOT / "manifests" / f"{name}.yaml").read_text() for name in ("namespace", "roles")]
    text = "---\n".join([*parts, yaml.safe_dump_all(strange)])
    apply = [*kubectl, "apply", "--server-side", "--force-conflicts", "-f", "-"]
    subprocess.run(apply, input=text, text=True, check=True, capture_output=True)
    names = [f"crd/{plural}.{group}" for group, _, _, plural in STRANGE_KINDS]
    wait = [*kubectl, "wait", *names, "--for=condition=Established", "--timeout=60s"]
    subprocess.run(wait, check=True, capture_output=True)
    create = [*kubectl, "create", "token", "tandem-operator", "--namespace", NAMESPACE, "--duration=2h"]
    token = subprocess.run(create, check=True, capture_output=True, text=True).stdout.strip()
    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    file = directory / "operator-kubeconfig"
    file.write_text(json.dumps(config))
    return file


def _build_crd(group: str, version: str, kind: str, plural: str) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}},
            ],
        },
    }
