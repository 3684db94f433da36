"""The code sandbox as a service of the cluster: installed as for users, asked through its Service."""

import json
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tandem_core.sandbox.deployment import QUEUE_METRIC, SANDBOX_CAPABILITIES, SANDBOX_METRICS_PORT, SANDBOX_PORT
from tandem_core.sandbox.judging import Case, JudgeRequest, JudgeResult, TokensChecker
from tandem_core.sandbox.messages import MEBIBYTE, LanguageList, Limits, RunRequest, RunResult, Source, Verdict
from tandem_operator.generate.values import SANDBOX_POOL

from tools.chart import ROOT
from tools.cluster.tandem import SANDBOX, Kubernetes, install_sandbox

from .queue_metrics import serve_queue_metrics

pytestmark = pytest.mark.long
ADDRESS = f"http://{SANDBOX}.{SANDBOX}.svc:{SANDBOX_PORT}"
ASK = """
import sys, urllib.request
address, token, body = sys.argv[1:]
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
request = urllib.request.Request(address, body.encode() or None, headers)
print(urllib.request.urlopen(request, timeout=300).read().decode())
"""
QUICK = Limits(cpu_seconds=1, memory_bytes=64 * MEBIBYTE, processes=32)


class Asker:
    """A pod that asks the sandbox."""

    def __init__(self, kubernetes: Kubernetes, token: str) -> None:
        self.kubernetes = kubernetes
        self.token = token

    def ask(self, path: str, request: RunRequest | JudgeRequest | None = None, address: str = ADDRESS) -> str:
        """The body of the answer. Raises ClusterError for any but a good one."""
        words = [f"{address}{path}", self.token, request.model_dump_json() if request is not None else ""]
        return self.kubernetes.kubectl("exec", "asker", "--", "python", "-c", ASK, *words)

    def run(self, code: str, **more: Any) -> RunResult:
        source = Source(language="python", code=code)
        request = RunRequest.model_validate({"source": source, "limits": QUICK, **more})
        return RunResult.model_validate_json(self.ask("/v1/run", request))


@pytest.fixture(scope="module")
def sandbox(installation: Kubernetes) -> Iterator[Kubernetes]:
    """The namespace of the installed sandbox; one of the nodes is its pool."""
    installation.kubectl("label", "node", "node0", "=".join(SANDBOX_POOL))
    own = install_sandbox(installation.cluster, secrets.token_hex(16))
    yield own
    own.kubectl("delete", "namespace", SANDBOX, "--wait=false")
    own.kubectl("label", "node", "node0", f"{SANDBOX_POOL[0]}-")


def start_asker(sandbox: Kubernetes) -> Asker:
    """One with the token of the sandbox that is installed."""
    sandbox.kubectl("run", "asker", "--image=localhost/tandem:1", "--command", "--", "sleep", "infinity")
    sandbox.kubectl("wait", "pod/asker", "--for=condition=Ready", "--timeout=60s")
    return Asker(
        sandbox, sandbox.kubectl("get", "secret", SANDBOX, "--output=go-template={{.data.token | base64decode}}")
    )


@pytest.fixture(scope="module")
def asker(sandbox: Kubernetes) -> Asker:
    return start_asker(sandbox)


def test_it_judges_programs_through_its_service(asker: Asker) -> None:
    request = JudgeRequest(
        programs=(
            Source(language="python", code="print(sum(map(int, input().split())))"),
            Source(language="python", code="print(3)"),
            Source(language="python", code="while True: pass"),
        ),
        cases=(Case(stdin="1 2", expected="3"), Case(stdin="2 3", expected="5")),
        checker=TokensChecker(),
        limits=QUICK,
    )
    judged = JudgeResult.model_validate_json(asker.ask("/v1/judge", request))
    assert [[case.verdict for case in program.cases] for program in judged.programs] == [
        [Verdict.OK, Verdict.OK],
        [Verdict.OK, Verdict.WA],
        [Verdict.TLE, Verdict.TLE],
    ]


def test_its_pod_holds_all_limits_with_the_listed_capabilities(asker: Asker, sandbox: Kubernetes) -> None:
    holds = LanguageList.model_validate_json(asker.ask("/v1/languages")).limits
    assert set(holds.values()) == {"exact"}
    (pod,) = sandbox.pods(f"app.kubernetes.io/name={SANDBOX}")
    assert pod["spec"]["nodeName"] == "node0"
    status = sandbox.kubectl("exec", pod["metadata"]["name"], "--", "cat", "/proc/self/status")
    allowed = int(re.findall(r"CapBnd:\s*(\w+)", status)[0], 16)
    numbers = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "SETGID": 6, "SETUID": 7, "SYS_ADMIN": 21}
    assert allowed == sum(1 << numbers[name] for name in SANDBOX_CAPABILITIES)


def test_bombs_end_and_the_next_program_is_judged_right(asker: Asker) -> None:
    forks = asker.run("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass")
    assert forks.verdict == Verdict.TLE, forks
    memory = asker.run("x = [bytearray(1 << 20) for _ in range(1000)]")
    assert memory.verdict == Verdict.MLE, memory
    assert asker.run("print(6 * 7)").stdout == "42\n"


def test_programs_reach_nothing_of_the_cluster(asker: Asker) -> None:
    code = """
import glob, os, socket
for address in ("10.96.0.1", 443), ("10.99.0.1", 6443), ("127.0.0.1", 8010), ("10.244.0.1", 10250):
    try: socket.create_connection(address, 1); print("reached", address)
    except OSError: pass
print([path for top in ("/etc/tandem", "/var/run/secrets", "/var/lib/tandem-sandbox") for path in glob.glob(top)])
print([name for name in os.environ if "KUBERNETES" in name], os.listdir("/sys"), len(glob.glob("/proc/[0-9]*")))
"""
    assert asker.run(code).stdout == "[]\n[] [] 2\n"


def test_the_queue_that_it_is_scaled_by_can_be_read_without_the_token(asker: Asker, sandbox: Kubernetes) -> None:
    (pod,) = sandbox.pods(f"app.kubernetes.io/name={SANDBOX}")
    stranger = Asker(sandbox, "no token")
    address = f"http://{pod['status']['podIP']}:{SANDBOX_METRICS_PORT}"
    metrics = stranger.ask("/metrics", address=address)
    assert re.search(rf"^{QUEUE_METRIC} \d", metrics, re.MULTILINE)
    autoscaler = sandbox.get("hpa", SANDBOX)
    assert autoscaler["spec"]["metrics"][0]["pods"]["metric"]["name"] == QUEUE_METRIC


def test_nothing_is_run_without_the_token(asker: Asker, sandbox: Kubernetes) -> None:
    body = json.dumps({"command": ["true"]})
    done = sandbox.try_kubectl("exec", "asker", "--", "python", "-c", ASK, f"{ADDRESS}/v1/run", "guess", body)
    assert "401" in done.stderr


def test_a_container_that_is_killed_comes_back(asker: Asker, sandbox: Kubernetes) -> None:
    (pod,) = sandbox.pods(f"app.kubernetes.io/name={SANDBOX}")
    sandbox.try_kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", "kill -TERM 1")

    def is_back() -> bool:
        (again,) = sandbox.pods(f"app.kubernetes.io/name={SANDBOX}")
        (status,) = again["status"]["containerStatuses"]
        return bool(status["ready"] and status["restartCount"])

    sandbox.wait(is_back, "the container is ready again", 60)
    assert asker.run("print('again')").stdout == "again\n"


@pytest.mark.timeout(1200)
def test_pods_come_while_programs_wait_and_go_when_none_does(asker: Asker, sandbox: Kubernetes, tmp_path: Path) -> None:
    (rules,) = re.findall(r"```yaml\n(rules:\n.*?)```", (ROOT / "docs/sandbox.md").read_text(), re.DOTALL)
    with serve_queue_metrics(sandbox, rules, tmp_path) as metrics:
        sandbox.wait(lambda: sandbox.get("hpa", SANDBOX)["status"].get("currentMetrics"), "the queue's length is read")
        sleeping = Source(language="python", code="import time; time.sleep(20)")
        request = RunRequest(source=sleeping, limits=QUICK.model_copy(update={"wall_seconds": 30}))
        with ThreadPoolExecutor(16) as clients:
            asked = [clients.submit(asker.ask, "/v1/run", request) for _ in range(16)]
            sandbox.wait(lambda: metrics.observe_pods() >= 2, "a second pod is ready", 180)
            assert [RunResult.model_validate_json(each.result()).verdict for each in asked] == [Verdict.OK] * len(asked)
        sandbox.wait(lambda: metrics.observe_pods() == 1, "one pod is left", 300)
