"""Two real torchrun agents that meet through a real etcd."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.records import PhaseRecord
from tandem_core.coordination.store import Store
from tandem_core.job import load_job
from tandem_core.phases import Phase

JOB = Path(__file__).parents[2] / "examples" / "addition.yaml"

# Each rank writes its process id, meets the others in a collective, and holds that until the file `finish` is there.
RANK_PROGRAM = """
import os, pathlib, sys, time
import torch, torch.distributed as dist
directory = pathlib.Path(sys.argv[1])
dist.init_process_group("gloo")
rank = dist.get_rank()
(directory / f"started-{rank}-{os.getpid()}").write_text(os.environ["TANDEM_POD_NAME"])
while True:
    finish = torch.tensor(int((directory / "finish").exists()))
    dist.all_reduce(finish, op=dist.ReduceOp.MIN)
    if finish:
        break
    time.sleep(0.02)
(directory / f"finished-{rank}").write_text(str(dist.get_world_size()))
dist.destroy_process_group()
"""

# At its first start rank 1 never comes to the collective of Megatron's group in which rank 0 waits.
WAITING_RANK_PROGRAM = """
import os, pathlib, sys, time
import torch, torch.distributed as dist
from megatron.core import parallel_state
from tandem_core.job import load_job
from tandem_trainer import cpu_shim
from tandem_trainer.parallel import join_process_group, plan_patience, split_model
cpu_shim.install()
directory = pathlib.Path(sys.argv[1])
settings = ["spec.hybrid.replicas=2", "spec.deadlines.publishing=8", "spec.deadlines.training=8"]
spec = load_job(pathlib.Path(os.environ["TANDEM_JOB_FILE"]), settings).spec
join_process_group(spec.hybrid, plan_patience(spec.deadlines))
split_model(spec.hybrid, 0, plan_patience(spec.deadlines))
rank = dist.get_rank()
waits = rank == 1 and not list(directory.glob("started-1-*"))
(directory / f"started-{rank}-{os.getpid()}").write_text(os.environ["TANDEM_POD_NAME"])
while waits:
    time.sleep(1)
dist.all_reduce(torch.ones(1), group=parallel_state.get_data_parallel_group())
"""


class Agents:
    """Pods of one container: torchrun with one rank, each at its own address."""

    def __init__(self, directory: Path, endpoint: str, job_uid: str) -> None:
        self.directory = directory
        self._program = directory / "rank.py"
        self.set_program(RANK_PROGRAM)
        self._endpoint = endpoint
        self._job_uid = job_uid
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def set_program(self, program: str) -> None:
        """What ranks run."""
        self._program.write_text(program)

    def start(self, pod: int) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--rdzv-backend=tandem-etcd", f"--rdzv-endpoint={self._endpoint}", f"--rdzv-id={self._job_uid}"),
            *("--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", f"--local-addr=127.0.0.{pod + 1}"),
            *(str(self._program), str(self.directory)),
        ]
        environment = os.environ | {
            "TANDEM_JOB_FILE": str(JOB),
            "TANDEM_ETCD_ENDPOINTS": self._endpoint,
            "TANDEM_POD_NAME": f"pod-{pod}",
            "OMP_NUM_THREADS": "1",
        }
        with (self.directory / f"agent-{pod}.log").open("ab") as log:
            agent = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.running[pod] = agent
        return agent

    def kill(self, pod: int) -> None:
        """End the agent and its ranks as the loss of a machine does."""
        agent = self.running.pop(pod)
        for process in [*self.ranks(pod), agent.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        agent.wait(10)

    def ranks(self, pod: int) -> list[int]:
        """Process ids of the pod's ranks that live."""
        started = [path for path in self.directory.glob("started-*") if path.read_text() == f"pod-{pod}"]
        found = [int(path.name.split("-")[2]) for path in started]
        return [process for process in found if Path(f"/proc/{process}").exists()]

    def rounds(self, rank: int) -> int:
        """How often the rank has started."""
        return len(list(self.directory.glob(f"started-{rank}-*")))

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("agent-*.log")))

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_seconds: float = 90) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen\n{self.logs()}"
            time.sleep(0.05)


@pytest.fixture
def agents(tmp_path: Path, etcd_endpoint: str, keys: JobKeys) -> Iterator[Agents]:
    agents = Agents(tmp_path, etcd_endpoint, keys.job_uid)
    yield agents
    for pod in list(agents.running):
        agents.kill(pod)


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_lost_pod_restarts_the_ranks_in_place(agents: Agents, lost: int) -> None:
    survivor = 1 - lost
    agents.start(0)
    agents.start(1)
    agents.wait_for(lambda: agents.rounds(0) == agents.rounds(1) == 1, "the first start")
    surviving_agent = agents.running[survivor]

    agents.kill(lost)
    agents.start(lost)
    agents.wait_for(lambda: agents.rounds(0) == agents.rounds(1) == 2, "the restart in place")
    assert surviving_agent.poll() is None, agents.logs()

    (agents.directory / "finish").touch()
    for pod, agent in agents.running.items():
        assert agent.wait(60) == 0, f"pod {pod}\n{agents.logs()}"
    assert {(agents.directory / f"finished-{rank}").read_text() for rank in (0, 1)} == {"2"}


def test_a_stopped_rank_is_ended_and_all_ranks_restart_in_place(agents: Agents) -> None:
    agents.start(0)
    agents.start(1)
    agents.wait_for(lambda: agents.rounds(0) == agents.rounds(1) == 1, "the first start")
    (rank,) = agents.ranks(1)
    os.kill(rank, signal.SIGSTOP)  # and nobody continues it
    agents.wait_for(lambda: agents.rounds(0) == agents.rounds(1) == 2, "the restart in place")
    assert all(agent.poll() is None for agent in agents.running.values()), agents.logs()


def test_ranks_that_wait_for_one_that_never_comes_restart_in_place(agents: Agents) -> None:
    agents.set_program(WAITING_RANK_PROGRAM)
    agents.start(0)
    agents.start(1)
    for agent in list(agents.running.values()):
        assert agent.wait(120) == 0, agents.logs()
    assert agents.rounds(0) == agents.rounds(1) == 2


async def test_pods_that_come_back_to_a_finished_job_end_at_once(agents: Agents, store: Store, keys: JobKeys) -> None:
    (agents.directory / "finish").touch()
    agents.start(0)
    agents.start(1)
    for agent in list(agents.running.values()):
        assert agent.wait(90) == 0, agents.logs()
    last = load_job(JOB).spec.iterations
    done = PhaseRecord(iteration=last, phase=Phase.DONE, version=last, token=1, started_at=0.0)
    await store.put(keys.phase, done)

    late = agents.start(1)
    assert late.wait(60) == 0, agents.logs()
    assert agents.rounds(1) == 1


def test_a_closed_rendezvous_is_opened_again(agents: Agents) -> None:
    """Agents close it when their ranks have ended, also after errors; those that are started again are not refused."""
    (agents.directory / "finish").touch()
    agents.start(0)
    agents.start(1)
    for agent in list(agents.running.values()):
        assert agent.wait(90) == 0, agents.logs()

    agents.start(0)
    agents.start(1)
    for agent in list(agents.running.values()):
        assert agent.wait(90) == 0, agents.logs()
    assert agents.rounds(0) == agents.rounds(1) == 2
