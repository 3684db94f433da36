"""A Kubernetes API server with its controllers, for the whole session, and a namespace for each test."""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tandem_operator.generate.crd import render_crd

from bench.etcd import serve_etcd
from tools.cluster.control_plane import serve_control_plane
from tools.cluster.programs import CONTROL_PLANE, ProgramsMissing, find_programs

from .operator_process import OperatorProgram, install
from .rljob_api import Api
from .watched_job import WatchedJob, wait_until

KUBECONFIG_VARIABLE = "TANDEM_KUBECONFIG"


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Path]:
    """The kubeconfig of the cluster that TANDEM_KUBECONFIG names, else of a control plane of the tests' own."""
    if named := os.environ.get(KUBECONFIG_VARIABLE):
        yield Path(named)
        return
    try:
        find_programs(CONTROL_PLANE)
    except ProgramsMissing as error:
        # In CI, a test that is left out is a failure.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"LEFT OUT, no Kubernetes: {error}")
    with serve_control_plane() as kubeconfig:
        yield kubeconfig


@pytest.fixture(scope="session")
def kubectl(kubernetes: Path) -> list[str]:
    """How to call kubectl with the cluster of the tests."""
    return [str(find_programs(CONTROL_PLANE) / "kubectl"), "--kubeconfig", str(kubernetes)]


@pytest.fixture(scope="session")
def crd(kubernetes: Path, kubectl: list[str]) -> Path:
    """The kubeconfig of a cluster that knows RLJobs."""
    apply = [*kubectl, "apply", "--server-side", "--force-conflicts", "-f", "-"]
    subprocess.run(apply, input=render_crd(), text=True, check=True, capture_output=True)
    established = ["wait", "crd/rljobs.tandem.dev", "--for=condition=Established", "--timeout=60s"]
    subprocess.run([*kubectl, *established], check=True, capture_output=True)
    return kubernetes


@pytest.fixture
def namespace(kubectl: list[str]) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    subprocess.run([*kubectl, "create", "namespace", name], check=True, capture_output=True)
    yield name
    subprocess.run([*kubectl, "delete", "namespace", name, "--wait=false"], check=True, capture_output=True)
    _let_go([*kubectl, f"--namespace={name}"])


def _let_go(kubectl: list[str]) -> None:
    """Of what no operator and no node would: it would keep the namespace for ever, and Kubernetes busy with it."""
    found = subprocess.run([*kubectl, "get", "rljobs", "--output=name"], capture_output=True, text=True, check=False)
    if jobs := found.stdout.split():
        subprocess.run([*kubectl, "delete", "--wait=false", *jobs], capture_output=True, check=False)
        patch = ["patch", *jobs, "--type=merge", '--patch={"metadata": {"finalizers": null}}']
        subprocess.run([*kubectl, *patch], capture_output=True, check=False)
    subprocess.run([*kubectl, "delete", "pods", "--all", "--force"], capture_output=True, check=False)


@pytest.fixture(scope="session")
def etcd() -> Iterator[str]:
    """host:port of an etcd for jobs."""
    with serve_etcd() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def operator_program(
    crd: Path, kubectl: list[str], etcd: str, tmp_path_factory: pytest.TempPathFactory
) -> OperatorProgram:
    """How to start an operator that has exactly the rights of the installation."""
    return OperatorProgram(install(kubectl, crd, tmp_path_factory.mktemp("operator")), etcd)


@pytest.fixture(scope="module")
def operator(operator_program: OperatorProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running operator for a file's tests; its log. Files that start their own must not have it beside them."""
    log = tmp_path_factory.mktemp("running") / "operator.log"
    with operator_program.run(log, "--pod-monitor", "--grace-period-seconds=30", "--resync-seconds=3"):
        wait_until(lambda: "this is the active operator" in log.read_text(), f"the operator leads: {log}")
        yield log
    print(log.read_text()[-20_000:])


@pytest.fixture
def new_job(crd: Path, namespace: str, etcd: str, operator: Path) -> Iterator[Callable[[str], WatchedJob]]:
    """Names a job in the test's namespace."""
    with Api(crd, namespace) as api:
        yield lambda name: WatchedJob(api, namespace, name, etcd)
