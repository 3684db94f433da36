"""From `kubectl apply` to the first rollout token on a node of the test cluster, and where the time goes.

    .venv/bin/python -m bench.cluster_start        # about 2 minutes on 2 quiet cores, as root

The job is examples/addition.yaml without its warm-up. Milestones are seen by asking the API server, and the replay
buffer's file for the first answer, several times a second.
"""

import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.page import describe_machine, write_section
from tools.cluster.cluster import Cluster
from tools.cluster.programs import build_programs
from tools.cluster.tandem import AppliedJob, Kubernetes, apply_job

EXAMPLE = Path(__file__).parents[1] / "examples" / "addition.yaml"
DEADLINE_SECONDS = 240.0


def has_started(pod: dict[str, Any], container: str) -> bool:
    """Whether the container's process runs."""
    status = pod["status"]
    found = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return any(each["name"] == container and each["state"].get("running") for each in found)


def has_answers(job: AppliedJob) -> bool:
    """Whether the replay buffer holds an answer."""
    try:
        with sqlite3.connect(f"file:{job.replay_buffer}?mode=ro", uri=True) as database:
            return database.execute("select count(*) from segments").fetchone()[0] > 0
    except (StopIteration, KeyError, sqlite3.Error):
        return False


def milestones(job: AppliedJob) -> dict[str, Callable[[], bool]]:
    """What has to happen, in this order."""

    def any_pod(component: str, condition: Callable[[dict[str, Any]], bool]) -> bool:
        return any(condition(pod) for pod in job.pods(component))

    return {
        "the operator has made the pods' Jobs": lambda: bool(job.kubernetes.get("job", f"{job.name}-hybrid")),
        "volumes are there and the hybrid pod has a node": lambda: any_pod(
            "hybrid", lambda pod: bool(pod["spec"].get("nodeName"))
        ),
        "the sidecar's process runs": lambda: any_pod("hybrid", lambda pod: has_started(pod, "inference")),
        "the checkpoint engine answers, the trainer's process runs": lambda: any_pod(
            "hybrid", lambda pod: has_started(pod, "trainer")
        ),
        "ranks and engine are members, the first weights are published and loaded": lambda: (
            job.status.get("phase") == "Rollout" or has_answers(job)
        ),
        "the first answer": lambda: has_answers(job),
    }


def measure(kubernetes: Kubernetes) -> list[tuple[str, float]]:
    """Seconds after the apply began, by milestone. Raises TimeoutError."""
    started = time.monotonic()
    job = apply_job(kubernetes, EXAMPLE, "start", iterations=1, warmup=None)
    seen = [("kubectl has applied it", time.monotonic() - started)]
    for name, reached in milestones(job).items():
        kubernetes.wait(reached, name, DEADLINE_SECONDS)
        seen.append((name, time.monotonic() - started))
    return seen


def render(cluster_seconds: float, seen: list[tuple[str, float]]) -> str:
    """The section of docs/benchmarks.md."""
    rows = [
        f"| {name} | {at:.1f} | {at - before:.1f} |"
        for (name, at), (_, before) in zip(seen, [("", 0.0), *seen], strict=False)
    ]
    return "\n".join(
        [
            f"`python -m bench.cluster_start`. {describe_machine()} A cluster of one node, `examples/addition.yaml`",
            f"without its warm-up. (Cluster and operator were ready {cluster_seconds:.0f} s after `make cluster`.)",
            "",
            "| until | seconds after `kubectl apply` | of these, for this step |",
            "| --- | --- | --- |",
            *rows,
        ]
    )


def main() -> None:
    build_programs()
    with tempfile.TemporaryDirectory(prefix="tandem-start-") as folder:
        cluster = Cluster(Path(folder) / "cluster")
        started = time.monotonic()
        cluster.start()
        try:
            Kubernetes(cluster).install()
            cluster_seconds = time.monotonic() - started
            section = render(cluster_seconds, measure(Kubernetes(cluster, "default")))
        finally:
            cluster.stop()
    write_section("start", section)
    print(section)


if __name__ == "__main__":
    main()
