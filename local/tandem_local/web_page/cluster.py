"""The page of a job on a cluster, through `kubectl port-forward`."""

import base64
import contextlib
import subprocess
import tempfile
from pathlib import Path

from tandem_core.environment import MASTER_PORT
from tandem_core.errors import TandemError
from tandem_operator.build.names import COMPONENT_LABEL, JOB_LABEL, Component
from tandem_operator.build.pods import TOKEN_FILE_NAME

from tandem_local.inspection.kubectl import Kubectl, KubectlFailed
from tandem_local.web_page.browser import page_address, tell_address

_END_SECONDS = 10.0


def forward_page(kubectl: Kubectl, job: str, port: int, *, open_browser: bool) -> None:
    """Tell where the page is, and forward 127.0.0.1:`port` (0: any) to the master until interrupted.

    Raises TandemError if no master runs, or KubectlFailed.
    """
    pod = find_master_pod(kubectl, job)
    token = read_token(kubectl, job)
    encrypted = bool(kubectl.get("rljob", job)["spec"].get("security", {}).get("tls"))
    command = kubectl.command("port-forward", "--address=127.0.0.1", f"pod/{pod}", f"{port or ''}:{MASTER_PORT}")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - the user's own kubectl
    lines = iter(process.stdout or ())
    try:
        local_port = parse_forwarding(next(lines, ""))
        with tempfile.TemporaryDirectory(prefix="tandem-page-") as directory:
            address = page_address("127.0.0.1", local_port, token, encrypted=encrypted)
            tell_address(address, Path(directory), open_browser=open_browser)
            for _ in lines:  # one for each connection
                pass
        raise KubectlFailed(f"the connection to pod {pod} ended: if the master was started anew, call this again")
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)


def find_master_pod(kubectl: Kubectl, job: str) -> str:
    """The name of the pod in which the job's master runs."""
    selector = f"--selector={JOB_LABEL}={job},{COMPONENT_LABEL}={Component.MASTER}"
    pods = kubectl.list_objects("pods", selector)
    running = [
        str(pod["metadata"]["name"])
        for pod in pods
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]
    if not running:
        raise TandemError(
            f"no master of an RLJob {job!r} runs in this namespace (--namespace names another one): "
            f"`kubectl tandem status {job}` says why. The page is there while the job runs"
        )
    return running[0]


def read_token(kubectl: Kubectl, job: str) -> str:
    """The bearer token of the job's HTTP APIs. Raises KubectlFailed if its Secret may not be read."""
    data = kubectl.get("secret", f"{job}-token")["data"]
    return base64.b64decode(data[TOKEN_FILE_NAME]).decode().strip()


def parse_forwarding(line: str) -> int:
    """The local port in `Forwarding from 127.0.0.1:40001 -> 8000`; raises KubectlFailed for anything else."""
    words = line.split()
    if words[:2] != ["Forwarding", "from"]:
        raise KubectlFailed("kubectl port-forward did not begin: see what it said")
    return int(words[2].rpartition(":")[2])
