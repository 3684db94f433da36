"""What is watched: a job under `tandem run`, an operator with a job on a control plane, and a code sandbox."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from tandem_core.environment import CHECKPOINT_ENGINE_PORT, ENGINE_PORT, MASTER_PORT, TRAINER_METRICS_PORT
from tandem_core.errors import TandemError
from tandem_local.run_directory import HOME_VARIABLE, RunDirectory
from tandem_local.run_state import RunStatus
from tandem_operator.generate.crd import render_crd

from bench.etcd import serve_etcd
from bench.monitoring.prometheus import Target
from bench.operator_scale import serve_operator
from tools.cluster.control_plane import serve_control_plane
from tools.cluster.programs import CONTROL_PLANE, find_programs
from tools.free_ports import find_free_ports

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"
NAME = "addition"
NAMESPACE = "jobs"
"""Where `serve_operator` looks after jobs."""
PORTS = {
    "master": (MASTER_PORT,),
    "hybrid": (CHECKPOINT_ENGINE_PORT, TRAINER_METRICS_PORT, ENGINE_PORT),
    "inference": (CHECKPOINT_ENGINE_PORT, ENGINE_PORT),
}
"""Ports with metrics, by the kind of pod."""
SETTINGS = (
    "spec.evaluation.every=20",
    "spec.evaluation.prompts=64",
    "spec.rollout.tokensPerIteration=3",  # some answers are carried over
    "spec.elastic.min=1",
    "spec.elastic.max=1",
)
_START_SECONDS = 180.0
_SANDBOX_SECONDS = 60.0


@dataclass
class WatchedJob:
    """The example, shortened, under `tandem run`."""

    process: "subprocess.Popen[bytes]"
    directory: RunDirectory

    @property
    def runs(self) -> bool:
        """Whether it is under way."""
        return self.process.poll() is None

    def find_targets(self) -> list[Target]:
        """Its pods, as soon as they have addresses. Raises TandemError if it ends before."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            state = self.directory.read_state()
            if state is not None and state.status is RunStatus.RUNNING and len(state.pods) > 1:
                return [self._build_target(pod.name, pod.address) for pod in state.pods if pod.name.startswith(NAME)]
            if not self.runs or time.monotonic() > deadline:
                raise TandemError(f"the job does not start: see {self.directory.path}")
            time.sleep(0.2)

    def _build_target(self, pod: str, address: str) -> Target:
        component = pod.removeprefix(f"{NAME}-").partition("-")[0]
        labels = {"namespace": "local", "rljob": NAME, "component": component, "pod": pod}
        addresses = tuple(f"{address}:{port}" for port in PORTS[component])
        return Target(addresses, labels, self.directory.token_file)


@contextmanager
def run_job(home: Path, iterations: int, warmup_steps: int) -> Iterator[WatchedJob]:
    """The job, begun; stopped at the end if it still runs."""
    command = [sys.executable, "-m", "tandem_local", "run", str(EXAMPLE), "--name", NAME]
    for setting in (f"spec.iterations={iterations}", f"spec.warmup.steps={warmup_steps}", *SETTINGS):
        command += ["--set", setting]
    with (home / "run.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | {HOME_VARIABLE: str(home)}, stdout=log, stderr=log)
    try:
        yield WatchedJob(process, RunDirectory(home / "runs" / NAME))
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(120)


@contextmanager
def run_operator(directory: Path) -> Iterator[Target]:
    """An operator that looks after a job, whose pods never come: the control plane has no node."""
    with serve_control_plane() as kubeconfig, serve_etcd() as etcd:
        kubectl = [str(find_programs(CONTROL_PLANE) / "kubectl"), "--kubeconfig", str(kubeconfig)]
        _apply(kubectl, render_crd(), "crd/rljobs.tandem.dev")
        _apply(kubectl, yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
        with serve_operator(kubeconfig, etcd, directory):
            job = yaml.safe_load(EXAMPLE.read_text())
            job["metadata"]["namespace"] = NAMESPACE
            _apply(kubectl, yaml.safe_dump(job))
            lines = (
                json.loads(line) for line in (directory / "operator.log").read_text().splitlines() if line[:1] == "{"
            )
            port = next(line["port"] for line in lines if line.get("event") == "answering")
            yield Target((f"127.0.0.1:{port}",), {"namespace": "tandem-system", "pod": "tandem-operator-0"})


def _apply(kubectl: list[str], text: str, wait_for: str = "") -> None:
    apply = [*kubectl, "apply", "--server-side", "-f", "-"]
    subprocess.run(apply, input=text, text=True, check=True, capture_output=True)
    if wait_for:
        wait = [*kubectl, "wait", wait_for, "--for=condition=Established", "--timeout=60s"]
        subprocess.run(wait, check=True, capture_output=True)


class WatchedSandbox:
    """A sandbox that is asked now and then."""

    def __init__(self, home: Path, port: int, target: Target) -> None:
        self.target = target
        self._url = f"http://127.0.0.1:{port}"
        self._home = home

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self._url}/readyz").is_success
        except httpx.TransportError:
            return False

    def run_program(self) -> None:
        """Run something short in it. Raises httpx.HTTPError."""
        token = (self._home / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        httpx.post(f"{self._url}/v1/run", json={"command": ["true"]}, headers=headers, timeout=30).raise_for_status()


@contextmanager
def run_sandbox(home: Path) -> Iterator[WatchedSandbox]:
    """A sandbox; needs root. Raises TandemError if it does not start."""
    port, metrics_port = find_free_ports(2)
    command = [sys.executable, "-m", "tandem_sandbox", "--home", str(home)]
    command += ["--port", str(port), "--metrics-port", str(metrics_port)]
    home.mkdir()
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    labels = {"namespace": "tandem-sandbox", "pod": "sandbox-0"}
    sandbox = WatchedSandbox(home, port, Target((f"127.0.0.1:{metrics_port}",), labels))
    try:
        deadline = time.monotonic() + _SANDBOX_SECONDS
        while not sandbox.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise TandemError(f"the sandbox does not start: {(home / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield sandbox
    finally:
        process.terminate()
        process.wait(60)
