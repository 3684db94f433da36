"""A Kubernetes API server with its controllers, for the whole session, and a namespace for each test."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tandem_operator.generate.crd import render_crd

from tools.cluster.control_plane import serve_control_plane
from tools.cluster.programs import CONTROL_PLANE, ProgramsMissing, find_programs

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
