"""The chart on a cluster: installed, upgraded, rolled back, uninstalled and installed again, while a job trains."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tandem_core.job import load_job

from bench.chaos.end_checks import check_samples
from tests.integration.conftest import etcd_binary
from tools.chart import CHART, NAMESPACE, RELEASE, ROOT, run_helm
from tools.cluster.cluster import Cluster
from tools.cluster.programs import CONTROL_PLANE, HELM, find_programs
from tools.cluster.tandem import AppliedJob, Kubernetes, apply_job

from .conftest import GPUS

VALUES = Path(__file__).with_name("helm-values.yaml")
ENFORCED = "pod-security.kubernetes.io/enforce=restricted"
"""Pods that ask for more than the restricted standard allows are refused, in the operator's namespace and the job's."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Kubernetes]:
    """A cluster without Tandem, and a namespace for jobs."""
    find_programs((HELM,))
    cluster = Cluster(tmp_path / "cluster")
    cluster.start(nodes=2, gpus=GPUS)
    try:
        system = Kubernetes(cluster)
        for namespace in (NAMESPACE, "team"):
            system.kubectl("create", "namespace", namespace)
            system.kubectl("label", "namespace", namespace, ENFORCED)
        yield Kubernetes(cluster, "team")
    finally:
        cluster.stop()


def helm(kubernetes: Kubernetes, *arguments: str) -> str:
    """What it prints; it must succeed."""
    done = run_helm(*arguments, f"--namespace={NAMESPACE}", kubeconfig=kubernetes.cluster.kubeconfig)
    if done.returncode != 0:
        pytest.fail(f"helm {' '.join(arguments)}: {done.stdout}{done.stderr}\n{kubernetes.describe()}")
    return done.stdout


def write_former_chart(folder: Path) -> Path:
    """The chart as an earlier version of it."""
    shutil.copytree(CHART, folder)
    description = yaml.safe_load((folder / "Chart.yaml").read_text()) | {"version": "0.0.9"}
    (folder / "Chart.yaml").write_text(yaml.safe_dump(description))
    return folder


def pods_of(job: AppliedJob) -> dict[str, tuple[str, int]]:
    """uid and number of restarts of each pod of the job."""
    found = job.kubernetes.pods(f"tandem.dev/job={job.name}")
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            sum(
                each["restartCount"]
                for kind in ("containerStatuses", "initContainerStatuses")
                for each in pod["status"].get(kind, [])
            ),
        )
        for pod in found
    }


def operators(kubernetes: Kubernetes) -> set[str]:
    system = Kubernetes(kubernetes.cluster)
    return {pod["metadata"]["uid"] for pod in system.pods("app.kubernetes.io/name=tandem-operator")}


def check_undisturbed(job: AppliedJob, before: dict[str, tuple[str, int]]) -> None:
    """Its pods are those of before, and it trains on."""
    job.wait_for_iteration(job.status["iteration"] + 2)
    assert pods_of(job) == before


def test_a_job_trains_on_through_upgrade_rollback_and_uninstallation(
    bare: Kubernetes, small_job: Path, tmp_path: Path
) -> None:
    values = [f"--values={VALUES}", "--wait", "--timeout=180s"]
    former = write_former_chart(tmp_path / "former")
    helm(bare, "install", RELEASE, str(former), *values)
    job = apply_job(bare, small_job, "lasting", iterations=2000, elastic=None)
    job.wait_for_iteration(2, 240)
    uid, before, first = job.uid, pods_of(job), operators(bare)

    helm(bare, "upgrade", RELEASE, str(CHART), *values, "--set=operator.resources.requests.cpu=60m")
    bare.wait(lambda: not operators(bare) & first, "the former operators are gone", 60)
    check_undisturbed(job, before)
    helm(bare, "rollback", RELEASE, "1", "--wait", "--timeout=180s")
    check_undisturbed(job, before)

    kept = helm(bare, "uninstall", RELEASE, "--wait")
    assert "rljobs.tandem.dev" in kept
    bare.wait(lambda: not operators(bare), "no operator is left", 60)
    assert job.uid == uid
    assert {name: pod[0] for name, pod in pods_of(job).items()} == {name: pod[0] for name, pod in before.items()}

    helm(bare, "install", RELEASE, str(CHART), *values)
    job.wait_for_iteration(job.status["iteration"] + 3, 240)
    assert job.uid == uid
    last = job.status["iteration"] + 15
    bare.kubectl("patch", "rljob", job.name, "--type=merge", "--patch", f'{{"spec": {{"iterations": {last}}}}}')
    job.wait_for_condition("Complete", 240)
    assert list(check_samples(job.replay_buffer, load_job(small_job, [f"spec.iterations={last}"]))) == []

    assert "complete" in helm(bare, "test", RELEASE, "--logs", "--timeout=600s")


def test_a_job_goes_on_when_etcd_has_lost_everything(bare: Kubernetes, small_job: Path, tmp_path: Path) -> None:
    helm(bare, "install", RELEASE, str(CHART), f"--values={VALUES}", "--wait", "--timeout=180s")
    job = apply_job(bare, small_job, "lasting", iterations=25, elastic=None)
    job.wait_for_iteration(3, 240)
    back_up(bare, tmp_path)
    system, members = Kubernetes(bare.cluster), "app.kubernetes.io/name=tandem-etcd"
    system.kubectl("scale", "statefulset/tandem-etcd", "--replicas=0")
    bare.wait(lambda: not system.pods(members), "no member is left", 60)
    system.kubectl("delete", "pvc", f"--selector={members}")
    system.kubectl("scale", "statefulset/tandem-etcd", "--replicas=3")
    job.wait_for_condition("Complete", 400)
    assert list(check_samples(job.replay_buffer, load_job(small_job, ["spec.iterations=25"]))) == []


def back_up(kubernetes: Kubernetes, directory: Path) -> None:
    """Do what docs/operations.md says, and look at what came of it."""
    page = (ROOT / "docs" / "operations.md").read_text()
    (script,) = re.findall(r"```bash\n(.*?)```", page[page.index("## Backup and restore of etcd") :], re.DOTALL)
    path = f"{find_programs(CONTROL_PLANE)}:{Path(etcd_binary()).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "KUBECONFIG": str(kubernetes.cluster.kubeconfig)}
    command = ["bash", "-euc", script]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    command = ["etcdutl", "snapshot", "status", "backup.db", "--write-out=json"]
    status = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(status.stdout)["totalKey"] > 0
