"""`kubectl tandem` on a real API server; what operator and kubelet would write is written by the test."""

import base64
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .job_specs import SMALL
from .rljob_api import Api, Object
from .watched_job import wait_until

type Plugin = Callable[..., "subprocess.CompletedProcess[str]"]

SECRETS = {
    "of a Secret": "in-the-secret-4711",
    "of the job's token": "token-of-the-job-4711",
    "of a variable": "in-a-variable-4711",
    "of the job's own specification": "in-the-spec-4711",
    "of an annotation": "in-an-annotation-4711",
    "of an argument": "in-an-argument-4711",
    "of a header": "in-a-header-4711",
}
CONDITIONS = [("Accepted", "True", "Valid", ""), ("Progressing", "False", "Unschedulable", "0/3 nodes are available")]


@pytest.fixture
def api(crd: Path, namespace: str) -> Iterator[Api]:
    with Api(crd, namespace) as api:
        yield api


@pytest.fixture
def plugin(kubectl: list[str], crd: Path, namespace: str) -> Plugin:
    """`kubectl tandem ...` as a user types it: kubectl finds the plugin on the PATH."""
    path = f"{Path(sys.executable).parent}:{Path(kubectl[0]).parent}:{os.environ['PATH']}"

    def call(*arguments: str, kubeconfig: Path = crd) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"PATH": path, "KUBECONFIG": str(kubeconfig)}
        command = [kubectl[0], "tandem", *arguments, f"--namespace={namespace}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    return call


@pytest.fixture
def job(api: Api, namespace: str) -> str:
    """A job whose pod waits for a node, with secrets wherever one can be."""
    variable = [{"name": "MINE", "value": SECRETS["of the job's own specification"]}]
    overlay = {"spec": {"containers": [{"name": "master", "env": variable}]}}
    metadata = {"name": "add", "annotations": {"example.com/a": SECRETS["of an annotation"]}}
    head: Object = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": metadata}
    api.create({**head, "spec": {**SMALL, "pods": {"master": overlay}}})
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    conditions = [
        dict(zip(("type", "status", "reason", "message"), each, strict=True)) | {"lastTransitionTime": now}
        for each in CONDITIONS
    ]
    status = {"phase": "Rollout", "iteration": 3, "reward": 0.625, "hybrid": "0/1", "observedGeneration": 1}
    api.edit("add", {"status": {**status, "conditions": conditions}}, part="/status")
    for name, key, value in (("mine", "url", "of a Secret"), ("add-token", "token", "of the job's token")):
        data = {key: base64.b64encode(SECRETS[value].encode()).decode()}
        create(api, namespace, "secrets", {"kind": "Secret", "metadata": {"name": name}, "data": data})
    wait_until(lambda: find(api, namespace, "serviceaccounts", "default"), "the namespace's ServiceAccount")
    create(api, namespace, "pods", build_pod())
    about = {"kind": "Pod", "name": "add-master-0-x7k2p", "namespace": namespace}
    message = f"no volume for {SECRETS['of a Secret']}; sent Authorization: Bearer {SECRETS['of a header']}"
    event = {"kind": "Event", "metadata": {"name": "e"}, "involvedObject": about, "type": "Warning", "message": message}
    create(api, namespace, "events", {**event, "reason": "FailedMount", "lastTimestamp": now, "count": 3})
    return "add"


def build_pod() -> Object:
    labels = {"tandem.dev/job": "add", "app.kubernetes.io/component": "master"}
    annotations = {"batch.kubernetes.io/job-completion-index": "0", "a": SECRETS["of an annotation"]}
    container = {
        "name": "master",
        "image": "not.there/tandem:1",
        "args": ["--api-key", SECRETS["of an argument"]],
        "env": [
            {"name": "ANYTHING", "value": SECRETS["of a variable"]},
            {"name": "URL", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "url"}}},
        ],
    }
    metadata = {"name": "add-master-0-x7k2p", "labels": labels, "annotations": annotations}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def create(api: Api, namespace: str, plural: str, body: Object) -> None:
    api.request("POST", f"/api/v1/namespaces/{namespace}/{plural}", {"apiVersion": "v1", **body})


def find(api: Api, namespace: str, plural: str, name: str) -> list[Any]:
    items = api.request("GET", f"/api/v1/namespaces/{namespace}/{plural}")["items"]
    return [item for item in items if item["metadata"]["name"] == name]


def unpack(file: Path) -> dict[str, str]:
    """Text by file name."""
    with tarfile.open(file) as archive:
        members = {each.name.partition("/")[2]: archive.extractfile(each) for each in archive.getmembers()}
        return {name: content.read().decode() for name, content in members.items() if content is not None}


def test_the_status_says_what_the_job_waits_for(plugin: Plugin, job: str, namespace: str) -> None:
    done = plugin("status", job)
    assert done.returncode == 0, done.stderr
    assert f"add  Rollout, iteration 3/5  (namespace {namespace}, for" in done.stdout
    assert "- Unschedulable: 0/3 nodes are available" in done.stdout
    assert "-> The message is the scheduler's." in done.stdout
    assert "add-master-0-x7k2p  Pending" in done.stdout
    assert "FailedMount" in done.stdout
    assert "(3 times)" in done.stdout
    table = plugin("top")
    assert table.returncode == 0, table.stderr
    assert [line.split()[:4] for line in table.stdout.splitlines()[1:]] == [
        [f"{namespace}/add", "Rollout", "3/5", "0.625"]
    ]


def test_a_job_that_is_not_there_is_told_with_those_that_are(plugin: Plugin, job: str) -> None:
    done = plugin("status", "nothing")
    assert done.returncode == 2
    assert "there is no RLJob 'nothing' in this namespace; there are: add" in done.stderr
    samples = plugin("samples", job)
    assert samples.returncode == 2
    assert "no master runs" in samples.stderr
    assert "Traceback" not in done.stderr + samples.stderr


def test_a_diagnosis_has_everything_but_secrets(plugin: Plugin, job: str, tmp_path: Path) -> None:
    file = tmp_path / "diagnosis.tar.gz"
    done = plugin("diagnose", job, f"--output={file}")
    assert done.returncode == 0, done.stderr
    assert "bad    Unschedulable: 0/3 nodes are available" in done.stdout
    assert "FailedMount" in done.stdout
    assert file.stat().st_mode & 0o077 == 0
    files = unpack(file)
    assert set(files) >= {"diagnosis.txt", "status.txt", "events.txt", "rljob.yaml", "pods.yaml"}
    everything = "\n".join((*files.values(), done.stdout))
    assert [name for name, secret in SECRETS.items() if secret in everything] == []
    encoded = {name: base64.b64encode(secret.encode()).decode() for name, secret in SECRETS.items()}
    assert [name for name, secret in encoded.items() if secret in everything] == []
    pod = yaml.safe_load(files["pods.yaml"])
    assert pod["spec"]["containers"][0]["env"][0] == {"name": "ANYTHING", "value": "(removed)"}
    assert pod["spec"]["containers"][0]["image"] == "not.there/tandem:1"
    assert yaml.safe_load(files["rljob.yaml"])["spec"]["iterations"] == SMALL["iterations"]


def test_who_may_not_read_secrets_is_told_what_that_means(
    plugin: Plugin, job: str, kubectl: list[str], crd: Path, namespace: str, tmp_path: Path
) -> None:
    kinds = "--resource=rljobs.tandem.dev,pods,events,jobs.batch,deployments.apps,persistentvolumeclaims,services"
    for command in (
        ("create", "serviceaccount", "reader"),
        ("create", "role", "reader", "--verb=get,list", kinds),
        ("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:reader"),
    ):
        subprocess.run([*kubectl, "--namespace", namespace, *command], check=True, capture_output=True)
    create_token = [*kubectl, "--namespace", namespace, "create", "token", "reader"]
    token = subprocess.run(create_token, check=True, capture_output=True, text=True).stdout.strip()
    config = yaml.safe_load(crd.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    file = tmp_path / "diagnosis.tar.gz"
    done = plugin("diagnose", job, f"--output={file}", kubeconfig=tmp_path / "kubeconfig")
    assert done.returncode == 0, done.stderr
    assert "read the file first" in done.stdout
    everything = "\n".join((*unpack(file).values(), done.stdout))
    known = {"of a variable", "of the job's own specification", "of an annotation", "of an argument", "of a header"}
    assert [name for name in known if SECRETS[name] in everything] == []
