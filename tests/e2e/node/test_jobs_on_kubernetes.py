"""Jobs that train in real containers, while all that they need is killed in turn."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tandem_core.job import load_job

from bench.chaos.end_checks import check_samples
from tools.cluster.tandem import AppliedJob, Kubernetes, apply_job

EXAMPLE = Path(__file__).parents[3] / "examples" / "addition.yaml"


def kill_process(job: AppliedJob, word: str, **environment: str) -> None:
    """SIGKILL to the process in the cluster that has the word in its command, and the environment."""
    for process in job.kubernetes.cluster.processes():
        try:
            if word in process.cmdline() and environment.items() <= process.environ().items():
                process.kill()
                return
        except psutil.Error:
            continue
    raise LookupError(f"no process {word} with {environment}")


def kill_in_hybrid_pod(job: AppliedJob, word: str) -> None:
    kill_process(job, word, TANDEM_POD_NAME=f"{job.name}-hybrid-0", TANDEM_JOB_UID=job.uid)


def delete_pod(job: AppliedJob, component: str) -> None:
    """Without notice."""
    (pod,) = job.pods(component)
    job.kubernetes.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")


def kill_kubelet(job: AppliedJob) -> None:
    (pod,) = job.pods("hybrid")
    job.kubernetes.cluster.find_process("kubelet", int(pod["spec"]["nodeName"].removeprefix("node"))).kill()


def kill_operator(job: AppliedJob) -> None:
    """The active one; another takes over."""
    system = Kubernetes(job.kubernetes.cluster)

    def holder() -> str:
        return str(system.get("lease", "tandem-operator")["spec"]["holderIdentity"])

    former = holder()
    pods = (pod["metadata"]["name"] for pod in system.pods("app.kubernetes.io/name=tandem-operator"))
    kill_process(job, "tandem_operator", HOSTNAME=next(name for name in pods if former.startswith(name)))
    job.kubernetes.wait(lambda: holder() not in ("", former), "another operator is active", 60)


def take_operators_away(job: AppliedJob) -> None:
    """For more than an iteration: the phases follow each other without them."""
    system = Kubernetes(job.kubernetes.cluster)
    system.kubectl("scale", "deployment/tandem-operator", "--replicas=0")
    job.kubernetes.wait(lambda: not system.pods("app.kubernetes.io/name=tandem-operator"), "no operator is left", 60)
    former = job.trained_iteration
    job.kubernetes.wait(lambda: job.trained_iteration >= former + 2, "two iterations without an operator", 60)
    system.kubectl("scale", "deployment/tandem-operator", "--replicas=2")


STRIKES: dict[str, Callable[[AppliedJob], None]] = {
    "the trainer container": lambda job: kill_in_hybrid_pod(job, "torch.distributed.run"),
    "the sidecar": lambda job: kill_in_hybrid_pod(job, "tandem_sidecar"),
    "the master pod": lambda job: delete_pod(job, "master"),
    "an inference pod": lambda job: delete_pod(job, "inference"),
    "the hybrid pod": lambda job: delete_pod(job, "hybrid"),
    "kubelet": kill_kubelet,
    "the operator": kill_operator,
    "etcd": lambda job: kill_process(job, "--data-dir=/var/lib/etcd/data"),
    "both operators, for two iterations": take_operators_away,
}


def wait_until_whole(job: AppliedJob, former: int) -> None:
    """All pods are ready and two more iterations are done, after what was done before the strike."""

    def whole() -> bool:
        ready = all(job.is_ready(component) for component in ("hybrid", "inference", "master"))
        return ready and job.status.get("iteration", 0) >= former + 2

    job.kubernetes.wait(whole, f"{job.name} is whole again", 150)


def check_end(job: AppliedJob, file: Path, iterations: int) -> None:
    """Every sample is trained once, none is lost."""
    assert list(check_samples(job.replay_buffer, load_job(file, [f"spec.iterations={iterations}"]))) == []


@pytest.mark.timeout(600)
def test_inference_pods_come_when_rollouts_lag_and_go_after_or_as_they_are_told(
    kubernetes: Kubernetes, small_job: Path
) -> None:
    job = apply_job(kubernetes, small_job, "elastic", iterations=2000, elastic={"max": 1, "targetSeconds": 0.05})
    kubernetes.wait(lambda: job.is_ready("inference"), "an inference pod came, as rollouts take too long", 240)
    change_elastic(job, targetSeconds=8)  # pods stay at least that long
    kubernetes.wait(lambda: not job.pods("inference"), "it went, as it is not needed", 240)
    change_elastic(job, scaler="external")
    kubernetes.kubectl("scale", "rljob", job.name, "--replicas=1")
    kubernetes.wait(lambda: job.is_ready("inference"), "a pod that kubectl scale asks for", 120)
    kubernetes.kubectl("scale", "rljob", job.name, "--replicas=0")
    kubernetes.wait(lambda: not job.pods("inference"), "it went, as kubectl scale says", 120)
    finish(job, small_job)


def change_elastic(job: AppliedJob, **fields: Any) -> None:
    change = json.dumps({"spec": {"elastic": fields}})
    job.kubernetes.kubectl("patch", "rljob", job.name, "--type=merge", "--patch", change)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_jobs_train_to_the_end_while_all_parts_of_one_are_killed_in_turn(
    kubernetes: Kubernetes, small_job: Path
) -> None:
    struck = apply_job(kubernetes, small_job, "struck", iterations=2000)
    beside = apply_job(kubernetes, EXAMPLE, "beside", iterations=20, warmup__steps=40)
    struck.wait_for_iteration(2, 240)
    for what, strike in STRIKES.items():
        started, former = time.monotonic(), struck.status["iteration"]
        strike(struck)
        wait_until_whole(struck, former)
        print(f"{what} (in iteration {former}): whole after {time.monotonic() - started:.0f} s")
    finish(struck, small_job)
    beside.wait_for_condition("Complete")
    check_end(beside, EXAMPLE, 20)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_job_goes_on_after_the_node_of_its_hybrid_pod_is_lost(kubernetes: Kubernetes, small_job: Path) -> None:
    job = apply_job(kubernetes, small_job, "moving", iterations=2000, elastic=None)
    job.wait_for_iteration(2, 240)
    (pod,) = job.pods("hybrid")
    lost, former, started = pod["spec"]["nodeName"], job.status["iteration"], time.monotonic()
    kubernetes.cluster.lose_node(int(lost.removeprefix("node")))
    # What an administrator says, or the cloud's controller: the node is off, its pods cannot be running any more.
    taint = "node.kubernetes.io/out-of-service=off:NoExecute"
    try:
        kubernetes.kubectl("taint", "node", lost, taint)
        kubernetes.wait(lambda: job.status.get("iteration", 0) >= former + 2, "the job goes on", 240)
        print(f"the node of the hybrid pod: iterations go on after {time.monotonic() - started:.0f} s")
        finish(job, small_job)
    finally:
        kubernetes.cluster.return_node(int(lost.removeprefix("node")))
        kubernetes.kubectl("taint", "node", lost, f"{taint}-")


def finish(job: AppliedJob, file: Path) -> None:
    """Let the job end soon, but not before it can have heard of it, and see that it has lost nothing."""
    last = job.status["iteration"] + 15
    change = json.dumps({"spec": {"iterations": last}})
    job.kubernetes.kubectl("patch", "rljob", job.name, "--type=merge", "--patch", change)
    job.wait_for_condition("Complete")
    check_end(job, file, last)
