"""The operator's roles hold what it uses and nothing else, by the API server's own audit log."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tandem_core.coordination.records import Control, Load, PhaseRecord
from tandem_core.phases import Phase
from tandem_operator.resources import DEPLOYMENT, JOB, LEASE, RLJOB
from tandem_operator.roles import GRANTS, LEASE_GRANTS

from .job_specs import GPUS, SMALL
from .test_operator_status import start_pods
from .watched_job import WatchedJob, wait_until

ASKED_BY_ADMISSION = {("rljobs/finalizers", "update")}
"""OwnerReferencesPermissionEnforcement looks at it when an object is made: no request of the operator's."""


def read_audit(log: Path) -> tuple[set[tuple[str, str]], list[str]]:
    """Verbs that were used, by resource; and requests that were forbidden."""
    used, forbidden = set(), []
    for line in log.read_text().splitlines():
        event = json.loads(line)
        what = event.get("objectRef", {})
        if "resource" not in what:
            continue
        resource = what["resource"] + (f"/{what['subresource']}" if "subresource" in what else "")
        code = event.get("responseStatus", {}).get("code", 0)
        used.add((resource, event["verb"]))
        if event["verb"] == "patch" and code == 201:
            used.add((resource, "create"))
        if code == 403 and "cannot" in str(event):
            forbidden.append(f"{event['verb']} {resource}: {event.get('annotations')}")
    return used, forbidden


def test_each_verb_of_the_roles_is_used_and_none_is_missing(
    crd: Path, kubernetes: Path, new_job: Callable[[str], WatchedJob]
) -> None:
    log = kubernetes.parent / "audit.log"
    if not log.exists():
        pytest.skip("LEFT OUT: the cluster of TANDEM_KUBECONFIG has no audit log here")
    for gang in ("volcano", "coscheduling"):
        new_job(gang).create({**SMALL, "scheduling": {"gang": gang}}).wait_for("Accepted", "True")
    shrinking = new_job("shrinking").create({**GPUS, "elastic": {"min": 0, "max": 1}})
    wait_until(lambda: (DEPLOYMENT, "shrinking-inference") in shrinking.objects((DEPLOYMENT,)), "the Deployment")
    shrinking.edit({"spec": {"elastic": {"max": 0}}})
    wait_until(lambda: not shrinking.objects((DEPLOYMENT,)), "the Deployment is gone")
    shrinking.edit({"spec": {"suspend": True}})
    wait_until(lambda: not shrinking.objects((JOB,)), "the Jobs are gone")
    drain_a_pod(new_job("draining"))
    ending = new_job("ending").create({**SMALL, "ttlSecondsAfterFinished": 0})
    start_pods(ending)
    ending.report("phase", PhaseRecord(iteration=5, phase=Phase.DONE, version=5, token=1, started_at=0.0))
    ending.end_pods("hybrid")
    ending.end_pods("master")
    wait_until(lambda: ending.get() is None, "the job is gone")

    granted = {(grant.resource, verb) for grant in (*GRANTS, *LEASE_GRANTS) for verb in grant.verbs}
    used, forbidden = read_audit(log)
    assert forbidden == []
    assert granted - ASKED_BY_ADMISSION == {item for item in used if item[0] != "namespaces"}
    assert {grant.kind for grant in GRANTS} > {RLJOB}
    assert LEASE_GRANTS[0].kind is LEASE


def drain_a_pod(job: WatchedJob) -> None:
    """One of two inference pods is to go: it is marked."""
    job.create({**SMALL, "elastic": {"min": 0, "max": 2, "scaler": "external", "replicas": 2}})
    wait_until(lambda: len(job.pods("inference")) == 2, "two pods")
    job.edit({"spec": {"replicas": 1}}, subresource="scale")
    control = wait_until(
        lambda: told if (told := job.read("control", Control)) and told.draining else None, "one of them drains"
    )
    cost = "controller.kubernetes.io/pod-deletion-cost"
    wait_until(
        lambda: (
            [pod for pod in job.pods("inference") if pod["metadata"].get("annotations", {}).get(cost)]
            or len(job.pods("inference")) == 1
        ),
        "it is marked",
    )
    drained = dict.fromkeys(control.draining, 0)
    load = Load(phase=Phase.ROLLOUT, outstanding_tokens=0.0, draining=drained, measured_at=2e9)
    job.report("load", load)
    wait_until(lambda: len(job.pods("inference")) == 1, "one pod is left")


def test_the_account_of_a_jobs_pods_may_do_nothing(new_job: Callable[[str], WatchedJob]) -> None:
    job = new_job("meek").create(SMALL)
    job.wait_for_pods()
    for pod in (*job.pods("hybrid"), *job.pods("master")):
        assert pod["spec"]["serviceAccountName"] == "meek"
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not any("projected" in volume for volume in pod["spec"]["volumes"])
    user = f"system:serviceaccount:{job.namespace}:meek"
    for verb, resource in (("get", "pods"), ("list", "secrets"), ("get", "configmaps"), ("patch", "rljobs")):
        attributes = {"namespace": job.namespace, "verb": verb, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        }
        answer = job.api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        assert not answer["status"]["allowed"], (verb, resource)
