"""A Kubernetes of two nodes with Tandem on it, for the whole session, and a namespace for each test."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tools.cluster.cluster import Cluster, check_machine
from tools.cluster.programs import CONTROL_PLANE, NODE, ProgramsMissing, find_programs
from tools.cluster.tandem import Kubernetes

GPUS = 2


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """Two nodes with GPUS fake GPUs each, etcd and two operators."""
    try:
        find_programs(CONTROL_PLANE + NODE)
        check_machine()
    except ProgramsMissing as error:
        # In CI, a test that is left out is a failure.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"LEFT OUT, no Kubernetes node: {error}")
    cluster = Cluster(tmp_path_factory.mktemp("kubernetes") / "cluster")
    cluster.start(nodes=2, gpus=GPUS)
    try:
        kubernetes = Kubernetes(cluster)
        kubernetes.install()
        yield kubernetes
    finally:
        cluster.stop()


@pytest.fixture
def kubernetes(installation: Kubernetes) -> Iterator[Kubernetes]:
    """The cluster, in a namespace of the test's own."""
    own = replace(installation, namespace=f"test-{uuid.uuid4().hex[:8]}")
    own.kubectl("create", "namespace", own.namespace)
    yield own
    own.kubectl("delete", "rljobs", "--all", "--wait=false")
    own.kubectl("delete", "namespace", own.namespace, "--wait=false")


@pytest.fixture
def small_job() -> Path:
    """An RLJob with two ranks and an inference pod that trains an iteration in a second."""
    return Path(__file__).parents[3] / "bench" / "chaos" / "job.yaml"
