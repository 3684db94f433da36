"""Objects come, come back, and are left alone, on a real API server with its controllers."""

import time
from collections.abc import Callable

import pytest
from tandem_core.coordination.records import Control
from tandem_operator.resources import CLAIM_TEMPLATE, DEPLOYMENT, JOB, SECRET, Kind

from .job_specs import GPUS, SMALL
from .watched_job import WatchedJob, wait_until

ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")

type NewJob = Callable[[str], WatchedJob]


@pytest.fixture
def job(new_job: NewJob) -> WatchedJob:
    """A job with inference pods, all of whose objects are there."""
    job = new_job("addition").create({**SMALL, "elastic": {"min": 1, "max": 2}})
    job.wait_for_pods()
    job.wait_for("Progressing", "False", "Unschedulable")
    wait_until(lambda: (DEPLOYMENT, "addition-inference") in job.objects(), "the Deployment")
    return job


def settle(job: WatchedJob) -> dict[tuple[Kind, str], str]:
    """The versions of all objects once nobody writes them any more."""
    before = job.versions()
    while True:
        time.sleep(1.2)  # twice what the operator waits before it looks again
        if (now := job.versions()) == before:
            return now
        before = now


def test_a_second_look_writes_nothing(job: WatchedJob) -> None:
    before = settle(job)
    job.edit({"metadata": {"annotations": {"anybody": "looks"}}})
    after = settle(job)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert {kind.name for kind, _ in changed} == {"RLJob"}


def test_every_object_that_is_deleted_comes_back_as_it_was(job: WatchedJob) -> None:
    before = job.objects()
    assert len(before) >= 11
    for kind, name in before:
        job.delete(kind, name)
    uids = {item["metadata"]["uid"] for item in before.values()}

    def all_new() -> bool:
        now = job.objects()
        return now.keys() == before.keys() and not uids & {item["metadata"]["uid"] for item in now.values()}

    # A claim that a pod uses is only marked; its protection does not hold here, where no pod has a node.
    wait_until(all_new, "all objects are new ones")
    token = (SECRET, "addition-token")
    assert job.objects()[token]["data"] == before[token]["data"]


def test_every_field_that_is_edited_comes_back(job: WatchedJob) -> None:
    for kind, name in job.objects():
        job.edit({"metadata": {"labels": {"app.kubernetes.io/part-of": "chaos"}}}, kind, name)
    wrong = {"ports": [{"port": 1}]}
    job.edit({"data": {"job.yaml": "nothing"}}, CONFIG_MAP, "addition-job")
    job.edit({"spec": {"replicas": 7}}, DEPLOYMENT, "addition-inference")
    job.edit({"spec": {"suspend": True}}, JOB, "addition-hybrid")
    job.edit({"spec": {"publishNotReadyAddresses": False, **wrong}}, Kind("v1", "Service", "services"), "addition")

    def mended() -> bool:
        objects = {f"{kind.name}/{name}": item for (kind, name), item in job.objects().items()}
        labels = {item["metadata"]["labels"]["app.kubernetes.io/part-of"] for item in objects.values()}
        return (
            labels == {"tandem"}
            and "tandem.dev/v1alpha1" in objects["ConfigMap/addition-job"]["data"]["job.yaml"]
            and objects["Deployment/addition-inference"]["spec"]["replicas"] <= 2  # elastic.max
            and not objects["Job/addition-hybrid"]["spec"]["suspend"]
            and objects["Service/addition"]["spec"].get("publishNotReadyAddresses")
        )

    wait_until(mended, "all edits are undone")


def test_an_object_that_lost_its_label_is_found_again(job: WatchedJob) -> None:
    job.edit({"metadata": {"labels": None}}, SECRET, "addition-token")
    wait_until(lambda: (SECRET, "addition-token") in job.objects(), "the label is back")


def test_fields_of_others_stay(job: WatchedJob) -> None:
    job.edit({"metadata": {"annotations": {"example.com/owner": "me"}}}, JOB, "addition-hybrid")
    job.edit({"metadata": {"labels": {"app.kubernetes.io/part-of": "chaos"}}}, JOB, "addition-hybrid")
    wait_until(
        lambda: job.jobs()["hybrid"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "tandem", "the label is back"
    )
    assert job.jobs()["hybrid"]["metadata"]["annotations"]["example.com/owner"] == "me"


def test_kueue_may_hold_a_job_back(new_job: NewJob) -> None:
    job = new_job("queued").create({**SMALL, "scheduling": {"gang": "kueue", "queue": "lq"}})
    job.wait_for_pods()
    job.edit({"spec": {"suspend": True}}, JOB, "queued-hybrid")
    assert "queue" in job.wait_for("Progressing", "False", "Queued")["message"]
    settle(job)
    assert job.jobs()["hybrid"]["spec"]["suspend"] is True


def test_live_edits_reach_the_job_and_its_objects(job: WatchedJob) -> None:
    job.edit({"spec": {"iterations": 9, "deadlines": {"training": 33}, "elastic": {"min": 2, "max": 3}}})

    def told() -> bool:
        control = job.read("control", Control)
        return (
            control is not None
            and control.iterations == 9
            and control.deadlines is not None
            and control.deadlines.training == 33
            and job.objects((DEPLOYMENT,))[DEPLOYMENT, "addition-inference"]["spec"]["replicas"] == 2
        )

    wait_until(told, "the edits are known")


def test_what_the_specification_no_longer_asks_for_goes(new_job: NewJob) -> None:
    job = new_job("shrinks").create({**GPUS, "elastic": {"min": 0, "max": 1}})
    wait_until(lambda: (CLAIM_TEMPLATE, "shrinks-inference") in job.objects(), "the template")
    job.edit({"spec": {"elastic": {"min": 0, "max": 0}}})
    gone = {(CLAIM_TEMPLATE, "shrinks-inference"), (DEPLOYMENT, "shrinks-inference")}
    wait_until(lambda: not gone & job.objects().keys(), "they are gone")
    assert (CLAIM_TEMPLATE, "shrinks-hybrid") in job.objects()


def test_an_external_scaler_sets_the_number_of_inference_pods(new_job: NewJob) -> None:
    job = new_job("scaled").create({**SMALL, "elastic": {"min": 0, "max": 3, "scaler": "external"}})
    wait_until(lambda: (DEPLOYMENT, "scaled-inference") in job.objects((DEPLOYMENT,)), "the Deployment")
    job.edit({"spec": {"replicas": 2}}, subresource="scale")
    wait_until(lambda: len(job.pods("inference")) == 2, "two pods")
    wait_until(lambda: job.status().get("inferenceReplicas") == 2, "the scale subresource tells of them")


def test_somebody_elses_object_is_not_taken(new_job: NewJob) -> None:
    job = new_job("taken")
    path = CONFIG_MAP.path(job.namespace)
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "taken-job"}, "data": {"mine": "1"}}
    job.api.request("POST", path, mine)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "taken"}}
    job.api.request("POST", ACCOUNT.path(job.namespace), account)
    time.sleep(1.1)  # objects and jobs are dated to the second
    job.create(SMALL)
    assert "taken" in job.wait_for("Progressing", "False", "Refused")["message"]
    found = job.get(CONFIG_MAP, "taken-job")
    assert found is not None
    assert "mine" in found["data"]
    for kind, name in ((CONFIG_MAP, "taken-job"), (ACCOUNT, "taken")):
        item = job.get(kind, name)
        assert item is not None
        assert "ownerReferences" not in item["metadata"]
    assert job.jobs() == {}


def test_a_patch_that_cannot_be_merged_is_said_and_mended_by_a_new_job(new_job: NewJob) -> None:
    job = new_job("bad").create({**SMALL, "pods": {"hybrid": {"spec": {"containers": [{"image": "x"}]}}}})
    refused = job.wait_for("Accepted", "False", "InvalidSpec")
    assert "spec.pods.hybrid" in refused["message"]
    assert job.objects() == {}
