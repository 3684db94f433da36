"""`tandem run` with a real etcd and pods of tiny programs: how runs end, and that nothing is left of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import psutil
import pytest
from tandem_local.process_table import observe_processes, observe_variable
from tandem_local.run_directory import RunDirectory
from tandem_local.run_state import Condition, RunState, RunStatus

DEADLINE_SECONDS = 90.0

PROGRAM = '''
"""A container: python program.py ROLE SECONDS EXIT_CODE"""
import asyncio, os, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import shared_memory
from pathlib import Path

role, seconds, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
ports = {"sidecar": 8001, "master": 8000, "trainer": 8002}
print(role, "speaking", flush=True)


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


if role in ports:
    server = ThreadingHTTPServer((os.environ["TANDEM_POD_IP"], ports[role]), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
if role == "sidecar":
    # What a vLLM engine does: a session of its own, and shared memory that a kill leaves behind.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    segment = shared_memory.SharedMemory(create=True, size=4096)
    Path(os.environ["TANDEM_SHM_DIR"]).mkdir()
    Path(f"segment-{os.environ['TANDEM_POD_NAME']}").write_text(segment.name)
if role == "trainer":
    model = Path(os.environ["TANDEM_CHECKPOINT_DIR"], "model")
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
if role == "master":
    from tandem_core.coordination.keys import JobKeys
    from tandem_core.coordination.records import PhaseRecord, Summary
    from tandem_core.coordination.store import Store
    from tandem_core.phases import Phase

    async def report():
        keys = JobKeys(os.environ["TANDEM_JOB_UID"])
        phase = Phase.FAILED if code else Phase.ROLLOUT
        async with Store(os.environ["TANDEM_ETCD_ENDPOINTS"]) as store:
            await store.put(keys.summary, Summary(phase=phase, iteration=1, iterations=2, version=1, reward=0.5,
                accuracy_before=0.25, accuracy=0.75))
            await store.put(keys.phase, PhaseRecord(iteration=1, phase=phase, version=1, token=1, started_at=0,
                reason="the reward function is missing" if code else ""))

    asyncio.run(report())
time.sleep(seconds)
sys.exit(code)
'''

JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {{name: tiny}}
spec:
  iterations: 2
  model: {{scratch: {{tokenizer: {{tokens: ["0", "1"]}}}}}}
  data: {{dataset: {{path: p.jsonl}}}}
  rewards: {{scorers: [{{type: exact}}]}}
  hybrid: {{device: cpu, replicas: 2, inference: {{release: none, kvCacheBytes: 67108864}}}}
  pods:
    hybrid:
      spec:
        initContainers: [{{name: inference, command: [python, program.py, sidecar, "1000", "0"]}}]
        containers: [{{name: trainer, command: [python, program.py, trainer, "{trainer}", "0"]}}]
    master:
      spec:
        containers: [{{name: master, command: [python, program.py, master, "{master}", "{code}"]}}]
"""


class Workplace:
    """A directory in which runs are started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run = RunDirectory(directory / "home" / "runs" / "tiny")
        self._started: list[subprocess.Popen[str]] = []
        (directory / "program.py").write_text(PROGRAM)
        (directory / "p.jsonl").write_text('{"prompt": "1", "answer": "1"}\n')

    def job(self, trainer: float = 0, master: float = 0, code: int = 0) -> None:
        (self.directory / "job.yaml").write_text(JOB.format(trainer=trainer, master=master, code=code))

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "tandem_local", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=os.environ | {"TANDEM_HOME": str(self.directory / "home"), "COLUMNS": "300"},
        )
        self._started.append(process)
        return process

    def tandem(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, output

    def start_run(self, *arguments: str) -> "subprocess.Popen[str]":
        """A run whose trainers are running."""
        self.job(trainer=1000, master=1000)
        process = self.start("run", "job.yaml", "--force", *arguments)
        self.until(self.trainers_run)
        return process

    def trainers_run(self) -> bool:
        state = self.run.read_state()
        hybrid = [pod for pod in state.pods if "hybrid" in pod.name] if state else []
        return len(hybrid) == 2 and all(pod.condition is Condition.RUNNING for pod in hybrid)

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it did not come to pass in time"
            time.sleep(0.05)

    @property
    def state(self) -> RunState:
        state = self.run.read_state()
        assert state is not None
        return state

    def processes(self) -> list[int]:
        return [pid for pid in observe_processes() if observe_variable(pid, "TANDEM_RUN_ID") == self.state.run_id]

    def listeners(self) -> list[str]:
        block = IPv4Network(self.state.address_block)
        connections = [item for item in psutil.net_connections("tcp") if item.status == psutil.CONN_LISTEN]
        return [item.laddr.ip for item in connections if "." in item.laddr.ip and ip_address(item.laddr.ip) in block]

    def shared_files(self) -> list[Path]:
        segments = [Path("/dev/shm") / file.read_text() for file in self.directory.glob("segment-*")]
        places = [*segments, Path("/dev/shm") / f"tandem-{self.state.run_id}", Path(f"/tmp/tandem-{self.state.run_id}")]
        return [path for path in places if path.exists()]

    def assert_nothing_is_left(self) -> None:
        self.until(lambda: not self.processes())
        assert self.listeners() == []
        assert self.shared_files() == []

    def close(self) -> None:
        if self.run.read_state() is not None:
            self.tandem("stop", "--now")
        for process in self._started:
            process.kill()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    workplace = Workplace(tmp_path)
    yield workplace
    workplace.close()


def test_a_run_succeeds_when_all_its_jobs_are_complete_and_tells_what_came_of_it(workplace: Workplace) -> None:
    workplace.job(trainer=1)
    code, output = workplace.tandem("run", "job.yaml", "--force")
    assert code == 0, output
    assert "tiny succeeded" in output
    assert "25.0% before, 75.0% after" in output
    assert "volumes/claims/tiny-checkpoints/model" in output
    assert "tiny-hybrid-1/trainer: completed" in output
    workplace.assert_nothing_is_left()
    assert workplace.tandem("logs", "tiny-hybrid-0/trainer") == (0, "trainer speaking\n")
    code, output = workplace.tandem("run", "job.yaml")
    assert code == 2
    assert "--resume" in output


def test_a_failed_run_tells_the_jobs_own_reason_and_the_last_lines(workplace: Workplace) -> None:
    workplace.job(trainer=1000, code=3)
    code, output = workplace.tandem("run", "job.yaml", "--force")
    assert code == 1, output
    assert "the reward function is missing" in output
    assert "last lines of tiny-master-0/master" in output
    assert workplace.state.status is RunStatus.FAILED
    workplace.assert_nothing_is_left()


def test_control_c_stops_a_run_which_can_be_resumed(workplace: Workplace) -> None:
    process = workplace.start_run()
    uid = workplace.state.uid
    assert len(workplace.processes()) >= 10
    assert workplace.listeners() != []
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, output
    workplace.assert_nothing_is_left()
    workplace.job(trainer=0)
    code, output = workplace.tandem("run", "job.yaml", "--force", "--resume")
    assert code == 0, output
    assert workplace.state.uid == uid


def test_a_killed_runner_leaves_nothing_that_runs_and_stop_removes_the_rest(workplace: Workplace) -> None:
    process = workplace.start_run()
    process.kill()
    process.wait(10)
    workplace.until(lambda: not workplace.processes())
    assert "lost: tandem stop tiny" in workplace.tandem("ps")[1]
    assert workplace.tandem("stop")[0] == 0
    workplace.assert_nothing_is_left()
    assert workplace.state.status is RunStatus.STOPPED


def test_stop_finds_processes_whose_process_1_is_gone_too(workplace: Workplace) -> None:
    process = workplace.start_run()
    inits = [container.pid for pod in workplace.state.pods for container in pod.containers if container.pid]
    for pid in [process.pid, *inits]:
        os.kill(pid, signal.SIGSTOP)  # so that none of them can clean up
    for pid in [process.pid, *inits]:
        os.kill(pid, signal.SIGKILL)
    process.wait(10)
    workplace.until(lambda: len(workplace.processes()) == 2)  # the engines in sessions of their own
    assert "cleaned up 2 processes" in workplace.tandem("stop")[1]
    workplace.assert_nothing_is_left()


def test_a_detached_run_is_listed_and_stopped_from_outside(workplace: Workplace) -> None:
    workplace.job(trainer=1000, master=1000)
    code, output = workplace.tandem("run", "job.yaml", "--force", "--detach")
    assert code == 0, output
    workplace.until(workplace.trainers_run)
    assert "tiny-hybrid-1" in workplace.tandem("ps", "tiny")[1]
    code, output = workplace.tandem("run", "job.yaml", "--resume")
    assert code == 2
    assert "is going on" in output
    assert workplace.tandem("stop", "tiny")[0] == 0
    assert workplace.state.status is RunStatus.STOPPED
    workplace.assert_nothing_is_left()
