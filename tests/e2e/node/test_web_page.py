"""`kubectl tandem ui` against a job that trains in real containers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tools.cluster.programs import CONTROL_PLANE, find_programs
from tools.cluster.tandem import Kubernetes, apply_job

SECONDS = 60


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_page_of_a_running_job_is_reached_through_the_api_server(kubernetes: Kubernetes, small_job: Path) -> None:
    job = apply_job(kubernetes, small_job, "shown", iterations=2000)
    job.wait_for_iteration(3, 240)
    path = f"{find_programs(CONTROL_PLANE) / 'kubectl'}".removesuffix("/kubectl")
    process = subprocess.Popen(
        [sys.executable, "-m", "tandem_local.kubectl_cli", "ui", "shown", "--namespace", kubernetes.namespace],
        env=os.environ | {"PATH": f"{path}:{os.environ['PATH']}", "KUBECONFIG": str(kubernetes.cluster.kubeconfig)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address, _, token = process.stdout.readline().strip().partition("/ui/#token=")
        assert address.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=address, timeout=SECONDS) as client:
            assert "<h1" in client.get("/ui/").text
            assert client.get("/v1/overview").status_code == 401
            client.headers["Authorization"] = f"Bearer {token}"
            overview = client.get("/v1/overview").json()
            assert overview["job"] == "shown"
            assert overview["last_iteration"] >= 2
            engines = {engine["kind"]: engine for engine in overview["engines"]}
            assert set(engines) == {"hybrid", "inference"}
            page = client.get("/v1/answers", params={"iteration_to": 2}).json()
            assert page["matching"] > 0
            answer = client.get(f"/v1/answers/{page['answers'][0]['id']}").json()
            assert sum(piece["tokens"] for piece in answer["pieces"]) == answer["tokens"]
            assert sum(piece["characters"] for piece in answer["pieces"]) == len(answer["text"])
            window = client.get("/v1/timeline", params={"first": 1, "last": 3}).json()
            assert any("inference" in pod for pod in window["versions"]["pods"])
            assert any("hybrid" in pod for pod in window["versions"]["pods"])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    kubernetes.kubectl("delete", "rljob", "shown", "--wait=false")
