"""Prometheus, and the adapter that brings its metrics to autoscalers, beside a test cluster's API server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from tandem_core.sandbox.deployment import SANDBOX_METRICS_PORT

from tools.cluster.layout import CLUSTER_ADDRESS, control_plane_directory
from tools.cluster.programs import ADAPTER, build_programs
from tools.cluster.services import Services
from tools.cluster.tandem import SANDBOX, Kubernetes

_ADAPTER_PORT = 6444
"""In the cluster's own network namespace."""
_NAME = "adapter"
_API = "v1beta1.custom.metrics.k8s.io"
_OBJECTS = f"""
apiVersion: v1
kind: Service
metadata: {{name: {_NAME}}}
spec: {{ports: [{{port: 443, targetPort: {_ADAPTER_PORT}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {_NAME}, labels: {{kubernetes.io/service-name: {_NAME}}}}}
addressType: IPv4
endpoints: [{{addresses: [{CLUSTER_ADDRESS}]}}]
ports: [{{port: {_ADAPTER_PORT}}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: {_API}}}
spec:
  group: custom.metrics.k8s.io
  version: v1beta1
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 100
  versionPriority: 100
  service: {{name: {_NAME}, namespace: {SANDBOX}}}
"""


@dataclass(frozen=True)
class QueueMetrics:
    """What Prometheus scrapes."""

    sandbox: Kubernetes
    targets: Path

    def observe_pods(self) -> int:
        """How many pods are ready; Prometheus is told of them. (Debian's is built without discovery on Kubernetes.)"""
        found = []
        for pod in self.sandbox.pods(f"app.kubernetes.io/name={SANDBOX}"):
            if any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"]):
                labels = {"namespace": SANDBOX, "pod": pod["metadata"]["name"]}
                address = f"{pod['status']['podIP']}:{SANDBOX_METRICS_PORT}"
                found.append({"targets": [address], "labels": labels})
        written = self.targets.with_suffix(".new")
        written.write_text(json.dumps(found))
        written.rename(self.targets)
        return len(found)


@contextmanager
def serve_queue_metrics(sandbox: Kubernetes, rules: str, directory: Path) -> Iterator[QueueMetrics]:
    """Both, with the adapter's `rules`; logs are in `directory`. Raises ProgramsMissing where it cannot be built."""
    adapter = str(build_programs((ADAPTER,)) / ADAPTER.file_name)
    server = next(each for each in sandbox.cluster.processes() if each.name() == "kube-apiserver")
    inside = ["nsenter", f"--target={server.pid}", "--net"]
    metrics = QueueMetrics(sandbox, directory / "targets.json")
    metrics.observe_pods()
    (directory / "rules.yaml").write_text(rules)
    scrape = {"job_name": "sandbox", "file_sd_configs": [{"files": [str(metrics.targets)]}]}
    configuration = {"global": {"scrape_interval": "2s"}, "scrape_configs": [scrape]}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    prometheus = "127.0.0.1:9090"
    with Services(directory / "logs") as services:
        options = [f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
        options.append(f"--web.listen-address={prometheus}")
        services.start("prometheus", [*inside, "prometheus", *options])
        kubeconfig = control_plane_directory(sandbox.cluster.directory) / "kubeconfig"
        configs = [f"--{user}-kubeconfig={kubeconfig}" for user in ("lister", "authentication", "authorization")]
        options = [f"--secure-port={_ADAPTER_PORT}", f"--cert-dir={directory / 'certificates'}", *configs]
        options += [f"--prometheus-url=http://{prometheus}", "--metrics-relist-interval=5s"]
        services.start("adapter", [*inside, adapter, *options, f"--config={directory / 'rules.yaml'}"])
        sandbox.kubectl("apply", "--server-side", "-f", "-", text=_OBJECTS)
        try:
            yield metrics
        finally:  # while an API is announced that nobody serves, no namespace ends
            sandbox.kubectl("delete", "apiservice", _API)
