"""Tandem on the test cluster, as a user sees it: through kubectl."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .cluster import Cluster, ClusterError
from .programs import CONTROL_PLANE, find_programs

SYSTEM = "tandem-system"
SANDBOX = "tandem-sandbox"
"""Namespace of the code sandbox, and the name of its objects."""


@dataclass(frozen=True)
class Kubernetes:
    """A cluster, and one of its namespaces."""

    cluster: Cluster
    namespace: str = SYSTEM

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """What it prints. Raises ClusterError with its message."""
        done = self.try_kubectl(*arguments, text=text)
        if done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def try_kubectl(self, *arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        program = str(find_programs(CONTROL_PLANE) / "kubectl")
        command = [program, f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={self.namespace}", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object or a List; {} if it is not there."""
        done = self.try_kubectl("get", *arguments, "--output=json")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def pods(self, selector: str) -> list[dict[str, Any]]:
        return list(self.get("pods", f"--selector={selector}")["items"])

    def wait(self, condition: Callable[[], Any], what: str, timeout_seconds: float = 120.0) -> Any:
        """The first value of `condition` that is true; the error shows the namespace."""
        deadline = time.monotonic() + timeout_seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not after {timeout_seconds:.0f} s\n{self.describe()}")
            time.sleep(0.3)
        return value

    def describe(self) -> str:
        """What a user would look at when something does not go on."""
        looks = (["get", "rljobs,jobs,pods,pvc", "-o", "wide"], ["get", "events"])
        system = Kubernetes(self.cluster)
        texts = [self.try_kubectl(*look).stdout for look in looks]
        texts.append(
            system.try_kubectl("logs", "--selector=app.kubernetes.io/name=tandem-operator", "--tail=15").stdout
        )
        return "\n".join(texts)

    def install(self) -> None:
        """CRD, etcd and operators; returns when they are ready."""
        self.kubectl("apply", "--server-side", "-k", str(Path(__file__).with_name("installation")))
        for workload in ("statefulset/tandem-etcd", "deployment/tandem-operator"):
            self.kubectl("rollout", "status", workload, "--timeout=120s")


def install_sandbox(cluster: Cluster, token: str) -> Kubernetes:
    """The code sandbox, in its namespace; returns when a pod is ready. A node must be of its pool."""
    kubernetes = Kubernetes(cluster, SANDBOX)
    kubernetes.kubectl("create", "namespace", SANDBOX)
    kubernetes.kubectl("create", "secret", "generic", SANDBOX, f"--from-literal=token={token}")
    kubernetes.kubectl("apply", "--server-side", "-k", str(Path(__file__).with_name("sandbox")))
    kubernetes.kubectl("rollout", "status", f"deployment/{SANDBOX}", "--timeout=120s")
    return kubernetes


@dataclass(frozen=True)
class AppliedJob:
    """An RLJob in a namespace."""

    kubernetes: Kubernetes
    name: str

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.kubernetes.get("rljob", self.name).get("status", {}))

    @property
    def uid(self) -> str:
        return str(self.kubernetes.get("rljob", self.name)["metadata"]["uid"])

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        """By type."""
        return {each["type"]: each for each in self.status.get("conditions", [])}

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Those that have not ended."""
        found = self.kubernetes.pods(f"tandem.dev/job={self.name},app.kubernetes.io/component={component}")
        return [pod for pod in found if pod["status"]["phase"] in ("Pending", "Running")]

    def is_ready(self, component: str) -> bool:
        """Whether its only pod is."""
        found = [pod["status"].get("conditions", []) for pod in self.pods(component)]
        ready = [any(each["type"] == "Ready" and each["status"] == "True" for each in pod) for pod in found]
        return ready == [True]

    def wait_for_iteration(self, iteration: int, timeout_seconds: float = 150.0) -> None:
        self.kubernetes.wait(
            lambda: self.status.get("iteration", 0) >= iteration,
            f"{self.name} at iteration {iteration}",
            timeout_seconds,
        )

    def wait_for_condition(self, condition: str, timeout_seconds: float = 120.0) -> dict[str, Any]:
        """The condition, once it is True."""
        found = self.kubernetes.wait(
            lambda: self.conditions.get(condition, {}).get("status") == "True" and self.conditions[condition],
            f"{self.name} is {condition}",
            timeout_seconds,
        )
        return dict(found)

    @property
    def trained_iteration(self) -> int:
        """The last one, by the replay buffer: also known while no operator writes the status."""
        with sqlite3.connect(f"file:{self.replay_buffer}?mode=ro", uri=True) as database:
            query = "select max(iteration) from batches where trained_at is not null"
            return int(database.execute(query).fetchone()[0] or 0)

    @property
    def replay_buffer(self) -> Path:
        """The file, as the machine has it."""
        volumes = self.kubernetes.cluster.directory / "volumes"
        claims = self.kubernetes.get("pvc", f"--selector=tandem.dev/job={self.name}")["items"]
        files = [next((volumes / claim["spec"]["volumeName"]).rglob("replay.sqlite"), None) for claim in claims]
        return next(file for file in files if file is not None)


def apply_job(kubernetes: Kubernetes, file: Path, name: str, **settings: Any) -> AppliedJob:
    """Apply the RLJob in `file` under another name and with other settings: spec fields as `rollout__prompts=4`."""
    body = yaml.safe_load(file.read_text())
    body["metadata"]["name"] = name
    for path, value in settings.items():
        *parents, last = path.split("__")
        place = body["spec"]
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    kubernetes.kubectl("apply", "-f", "-", text=yaml.safe_dump(body))
    return AppliedJob(kubernetes, name)
