"""`kubectl tandem` against a job that trains in real containers."""

import base64
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools.cluster.programs import CONTROL_PLANE, find_programs
from tools.cluster.tandem import Kubernetes, apply_job


def call(kubernetes: Kubernetes, *arguments: str) -> str:
    """What `kubectl tandem ...` prints."""
    kubectl = find_programs(CONTROL_PLANE) / "kubectl"
    path = f"{Path(sys.executable).parent}:{kubectl.parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "KUBECONFIG": str(kubernetes.cluster.kubeconfig)}
    command = [str(kubectl), "tandem", *arguments, f"--namespace={kubernetes.namespace}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_running_job_tells_all_about_itself_but_its_secrets(
    kubernetes: Kubernetes, small_job: Path, tmp_path: Path
) -> None:
    job = apply_job(kubernetes, small_job, "told", iterations=2000)
    job.wait_for_iteration(3, 240)
    status = call(kubernetes, "status", "told")
    assert "Waits for" in status
    assert "Timeline (seconds)" in status
    assert "serving version" in status or "released" in status
    assert "not shown" not in status
    assert "told" in call(kubernetes, "top")
    samples = call(kubernetes, "samples", "told", "--limit=2")
    assert samples.count("ended by") == 2
    logs = call(kubernetes, "logs", "told", "master", "--tail=5")
    assert len(logs.splitlines()) == 5
    assert "/master]" in logs

    file = tmp_path / "told.tar.gz"
    printed = call(kubernetes, "diagnose", "told", f"--output={file}")
    with tarfile.open(file) as archive:
        members = {each.name.partition("/")[2]: archive.extractfile(each) for each in archive.getmembers()}
        files = {name: content.read().decode() for name, content in members.items() if content is not None}
    assert '"phase"' in files["etcd.json"]
    assert '"Rollout"' in files["iterations.json"]
    assert sum(name.startswith("logs/told-") for name in files) >= 4
    everything = "\n".join((*files.values(), printed))
    for secret in ("told-token", "told-etcd"):
        data = kubernetes.get("secret", secret).get("data", {})
        values = [base64.b64decode(text).decode() for name, text in data.items() if name in ("token", "password")]
        assert [value for value in values if value in everything] == []
    kubernetes.kubectl("delete", "rljob", "told", "--wait=false")
