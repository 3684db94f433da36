"""A new operator that builds pods in another way than the one that made a job's."""

from pathlib import Path

from .job_specs import SMALL
from .operator_process import OperatorProgram
from .rljob_api import Api
from .watched_job import WatchedJob, wait_until


def image(job: WatchedJob) -> str:
    """Of the master in the template of its Job."""
    master = job.jobs().get("master")
    return str(master["spec"]["template"]["spec"]["containers"][0]["image"]) if master else ""


def test_pods_go_on_as_they_are_and_are_made_anew_when_the_job_is_resumed(
    crd: Path, namespace: str, operator_program: OperatorProgram, tmp_path: Path
) -> None:
    flags = [f"--namespaces={namespace}", f"--lease-name={namespace}"]
    with Api(crd, namespace) as api:
        job = WatchedJob(api, namespace, "lasting", operator_program.etcd)
        with operator_program.run(tmp_path / "old.log", *flags, "--rollout-image=rollout:1") as old:
            job.create(SMALL)
            job.wait_for_pods()
            before = job.versions()
            old.terminate()
            assert old.wait(timeout=20) == 0
        with operator_program.run(tmp_path / "new.log", *flags, "--rollout-image=rollout:2"):
            degraded = job.wait_for("Degraded", "True", "Refused")
            assert "lasting-master" in degraded["message"]
            assert image(job) == "rollout:1"
            assert {key for key in before if key[1] == "lasting-master"} <= job.versions().keys()
            job.edit({"metadata": {"annotations": {"tandem.dev/grace-period-seconds": "0"}}, "spec": {"suspend": True}})
            wait_until(lambda: not job.let_pods_go() and not job.jobs(), "the old pods are gone")
            job.edit({"spec": {"suspend": False}})
            wait_until(lambda: image(job) == "rollout:2", "pods of the new kind")
            job.wait_for("Degraded", "False")
