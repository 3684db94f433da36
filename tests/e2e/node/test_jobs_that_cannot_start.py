"""What a cluster has not got: room, images, GPUs. Nothing of it needs an engine."""

from pathlib import Path
from typing import Any

import yaml

from tools.cluster.tandem import AppliedJob, Kubernetes, apply_job

from .conftest import GPUS

SHOW_DEVICES = ["sh", "-c", "echo devices: $FAKE_VISIBLE_DEVICES; trap 'exit 0' TERM; while :; do sleep 0.2; done"]


def reason_is(job: AppliedJob, condition: str, reason: str) -> dict[str, Any]:
    """The condition, once it has the reason."""
    found = job.kubernetes.wait(
        lambda: job.conditions.get(condition, {}).get("reason") == reason and job.conditions[condition],
        f"{condition} of {job.name} for the reason {reason}",
        60,
    )
    return dict(found)


def test_a_quota_that_is_too_small_is_named(kubernetes: Kubernetes, small_job: Path) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "1"}},
    }
    kubernetes.kubectl("apply", "-f", "-", text=yaml.safe_dump(quota))
    job = apply_job(kubernetes, small_job, "too-big")
    assert "small" in reason_is(job, "Progressing", "QuotaExceeded")["message"]
    quota["spec"] = {"hard": {"pods": "9"}}
    kubernetes.kubectl("apply", "-f", "-", text=yaml.safe_dump(quota))
    kubernetes.wait(lambda: job.pods("hybrid") and job.pods("master"), "the pods come when the quota allows them", 60)


def test_an_image_that_is_not_there_is_named(kubernetes: Kubernetes, small_job: Path) -> None:
    job = apply_job(kubernetes, small_job, "no-image", images={"rollout": "localhost/nothing:1"})
    assert "localhost/nothing:1" in reason_is(job, "Degraded", "ImagePullFailed")["message"]


def test_the_containers_of_a_pod_share_its_gpus_and_no_other_pod_has_them(
    kubernetes: Kubernetes, small_job: Path
) -> None:
    """Two jobs of one pod with all GPUs of a node each, of two nodes; a third waits for them, and then runs."""
    first, second, third = (_apply_gpu_job(kubernetes, small_job, name) for name in ("first", "second", "third"))
    running = kubernetes.wait(lambda: _running(first, second, third), "two jobs have GPUs", 90)
    seen = {job.name: _devices(job) for job in running}
    for containers in seen.values():
        assert containers["trainer"] == containers["inference"] == "devices: gpu-0,gpu-1\n"
        assert containers["master"] == "devices:\n"
    assert len({job.pods("hybrid")[0]["spec"]["nodeName"] for job in running}) == 2
    (waiting,) = [job for job in (first, second, third) if job not in running]
    assert waiting.name in reason_is(waiting, "Progressing", "Unschedulable")["message"]
    kubernetes.kubectl("delete", "rljob", running[0].name, "--wait=false")
    kubernetes.wait(lambda: waiting in _running(waiting), "the third job has the GPUs of the first", 120)


def _apply_gpu_job(kubernetes: Kubernetes, file: Path, name: str) -> AppliedJob:
    """A job that asks for all GPUs of a node, whose containers only say which they see."""
    hybrid = {
        "terminationGracePeriodSeconds": 1,
        "initContainers": [_show_devices("inference")],
        "containers": [_show_devices("trainer")],
    }
    master = {"terminationGracePeriodSeconds": 1, "containers": [_show_devices("master")]}
    body = yaml.safe_load(file.read_text())["spec"]["hybrid"]
    return apply_job(
        kubernetes,
        file,
        name,
        hybrid=body | {"device": "gpu", "ranksPerReplica": GPUS},
        elastic=None,
        pods={"hybrid": {"spec": hybrid}, "master": {"spec": master}},
    )


def _show_devices(container: str) -> dict[str, Any]:
    well = {"$patch": "replace", "exec": {"command": ["true"]}}
    probes = {name: well for name in ("startupProbe", "livenessProbe")}
    return {"name": container, "command": SHOW_DEVICES, **probes}


def _running(*jobs: AppliedJob) -> list[AppliedJob]:
    """Those of which both pods run, when there are as many as can be; else none."""
    found = [
        job
        for job in jobs
        if all(any(pod["status"]["phase"] == "Running" for pod in job.pods(part)) for part in ("hybrid", "master"))
    ]
    return found if len(found) == min(len(jobs), 2) else []


def _devices(job: AppliedJob) -> dict[str, str]:
    """What each container sees."""
    containers = {"trainer": "hybrid", "inference": "hybrid", "master": "master"}
    pods = {component: job.pods(component)[0]["metadata"]["name"] for component in containers.values()}
    return {
        name: job.kubernetes.kubectl("logs", pods[component], f"--container={name}")
        for name, component in containers.items()
    }
