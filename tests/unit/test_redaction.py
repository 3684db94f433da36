"""No secret leaves a cluster in a diagnosis; what is none stays readable."""

import base64
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from tandem_local.inspection.diagnosis import build_files
from tandem_local.inspection.facts import EventFacts
from tandem_local.inspection.redaction import REMOVED, Redactor, list_secret_values
from tandem_local.inspection.source import Collection

from .job_facts import NOW, facts

SECRET = "pA5s/w0rd+with=signs"
JSON_WEB_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
HUB_TOKEN = "hf_" + "a1B2" * 8


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("headers={'authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
        ("curl -H 'authorization: token abcdef'", "abcdef"),
        ("sent Bearer abcdefgh1234 to it", "abcdefgh1234"),
        ("postgresql://user:pass@host/db", "pass"),
        ("https://token@github.com/x", "token"),
        ("WANDB_API_KEY=abcdef", "abcdef"),
        ('{"password": "abc def"}', "abc def"),
        (r'{"log": "{\"token\": \"abcdef\"}"}', "abcdef"),
        ("--db-password=1234-abc", "1234-abc"),
        ("AWS_SECRET_ACCESS_KEY: abc/def", "abc/def"),
        (f"cookie {JSON_WEB_TOKEN}", JSON_WEB_TOKEN),
        (f"found {HUB_TOKEN}", HUB_TOKEN),
        ("AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----", "MIIabc"),
        ("-----BEGIN PRIVATE KEY-----\nMIIabc", "MIIabc"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, secret: str) -> None:
    found = Redactor().text(text)
    assert secret not in found
    assert REMOVED in found


@pytest.mark.parametrize(
    "text",
    [
        "maxTokens: 1024",
        "tokens_per_second=1203.5, tokens: 12",
        "automountServiceAccountToken: false",
        "this needs the job's bearer token",
        "the task basic_arithmetic is basic arithmetic",
        "secretName: add-token",
        "secret:\n  secretName: add-token\n",
        "http://10.0.0.1:8100/v1/completions",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "form", [SECRET, base64.b64encode(SECRET.encode()).decode().rstrip("="), quote(SECRET, safe=""), f"x{SECRET}y"]
)
def test_a_known_value_is_found_in_every_form(form: str) -> None:
    found = Redactor.of([SECRET]).text(f"it said {form} twice: {form}")
    assert form not in found
    assert found.count(REMOVED) == 2


def test_short_values_are_not_looked_for_and_lines_of_long_ones_are() -> None:
    redactor = Redactor.of(["8000", "first line\nsecond line"])
    assert redactor.text("port 8000") == "port 8000"
    assert redactor.text("a second line b") == f"a {REMOVED} b"


def pod_with_secrets() -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {
            "name": "add-master-0-x",
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": '{"env": "annotated-1"}',
                "example.com/note": "annotated-2",
                "tandem.dev/grace-period-seconds": "60",
            },
            "managedFields": [{"manager": "managed-1"}],
        },
        "spec": {
            "containers": [
                {
                    "name": "master",
                    "args": ["--api-key", "argument-1", "--password=argument-2", "--port", "8000"],
                    "env": [
                        {"name": "ANYTHING", "value": "variable-1"},
                        {"name": "TANDEM_JOB_FILE", "value": "/etc/tandem/job/job.yaml"},
                        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "url"}}},
                    ],
                    "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "X", "value": "header-1"}]}},
                }
            ]
        },
    }


def test_of_objects_only_names_stay_where_secrets_may_be() -> None:
    secret = {"kind": "Secret", "metadata": {"name": "mine"}, "data": {"url": "ZW50cnktMQ=="}}
    text = Redactor().dump(pod_with_secrets(), secret)
    for value in ("annotated-1", "annotated-2", "managed-1", "argument-1", "argument-2", "variable-1", "header-1"):
        assert value not in text
    assert "ZW50cnktMQ==" not in text
    pod, _ = yaml.safe_load_all(text)
    container = pod["spec"]["containers"][0]
    assert [variable["name"] for variable in container["env"]] == ["ANYTHING", "TANDEM_JOB_FILE", "KEY"]
    assert container["env"][1]["value"] == "/etc/tandem/job/job.yaml"
    assert container["env"][2]["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "url"}
    assert container["args"][3:] == ["--port", "8000"]
    assert pod["metadata"]["annotations"]["tandem.dev/grace-period-seconds"] == "60"
    assert "example.com/note" in pod["metadata"]["annotations"]


def test_values_of_variables_and_secrets_are_known_and_harmless_ones_are_not() -> None:
    variables = [
        {"name": "MY_TOKEN", "value": "short1"},
        {"name": "ANYTHING", "value": "a-long-value-1"},
        {"name": "LEVEL", "value": "WARNING"},
        {"name": "SOME_PATH", "value": "/usr/lib/python3.12/x"},
        {"name": "USER", "value": "tandem"},
    ]
    secret = {"kind": "Secret", "data": {"password": "ZW50cnktMQ==", "username": "dXNlci0x", "ca.crt": "Y2VydC0x"}}
    assert list_secret_values([{"env": variables}, secret]) == {"short1", "a-long-value-1", "entry-1"}


def test_no_secret_is_in_any_file_of_a_diagnosis() -> None:
    secret = "s3cr3t-of-the-job"
    found = facts(
        logs={"a/b": (f"OSError: [Errno 28] No space left on device {secret}",)},
        events=(EventFacts(NOW, True, "pod/a", "FailedMount", f"no {secret}"),),
        problems=(f"could not {secret}",),
    )
    texts = {"logs/a/b.log": f"a {secret}\n", "rljob.yaml": f"x: {secret}\n"}
    files = build_files(Collection(found, Redactor.of([secret]), texts), NOW)
    assert set(files) >= {"diagnosis.txt", "status.txt", "events.txt", "logs/a/b.log", "rljob.yaml"}
    assert not [name for name, text in files.items() if secret in text]
    assert "a disk or shared memory is full" in files["diagnosis.txt"]
