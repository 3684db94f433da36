"""What `status`, `top` and `samples` show, and what is read from Kubernetes' objects."""

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType
from tandem_core.errors import TandemError
from tandem_core.job import RLJobStatus
from tandem_core.phases import Phase
from tandem_local.inspection.cluster_objects import (
    find_secret_names,
    parse_events,
    parse_pod,
    parse_rljob,
    select_containers,
)
from tandem_local.inspection.facts import EventFacts
from tandem_local.inspection.job_text import build_jobs, build_status
from tandem_local.inspection.machine_objects import describe_run
from tandem_local.inspection.sample_text import build_samples, printable
from tandem_local.inspection.waits import find_waits
from tandem_local.restart_policy import ContainerKind
from tandem_local.run_state import Condition, ContainerState, PodState, RunState, RunStatus
from tandem_rollout.storage.history import IterationRecord, SampleRecord

from .job_facts import JOB, NOW, condition, engine, facts, pod, snapshot

TIME = "2026-01-01T00:00:00Z"


def shown(picture: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as capture:
        console.print(picture)
    return capture.get()


def status_of(**changes: Any) -> str:
    found = facts(**changes)
    return shown(build_status(found, find_waits(found, NOW), NOW))


def test_the_status_tells_phase_waits_pods_and_timeline() -> None:
    seconds = {"Rollout": 2.5, "Draining": 0.1, "Training": 1.25, "Publishing": 0.05, "Loading": 0.1}
    record = IterationRecord(2, 2, {"reward": 0.625}, seconds, NOW)
    text = status_of(snapshot=snapshot(seconds=7), iterations=(record,))
    assert "add  Rollout, iteration 3/9  (namespace team-a, for 10 min 0 s)" in text
    assert "- Rollout of iteration 3: answers; 1 of 1 engines serve, about 1,200 tokens left (for 7 s)" in text
    assert "add-hybrid-0-x7k2p" in text
    assert "serving version 2" in text
    row = next(line.split() for line in text.splitlines() if line.split()[:2] == ["2", "2.50"])
    assert row == ["2", "2.50", "0.10", "1.25", "0.05", "0.10", "4.00", "0.625"]
    assert "since 7.0" in text


def test_the_status_of_an_ended_job_says_how_it_ended() -> None:
    status = RLJobStatus(
        phase=Phase.FAILED, iteration=3, conditions=[condition("Failed", "True", "JobFailed", "no disk")]
    )
    text = status_of(status=status)
    assert "Failed: no disk" in text
    assert "Waits for" not in text


def test_messages_are_not_taken_for_markup() -> None:
    event = EventFacts(NOW, True, "pod/a", "Failed", "it [bold]said[/nothing] so", 3)
    assert "it [bold]said[/nothing] so (3 times)" in status_of(events=(event,))


def test_what_could_not_be_read_is_said() -> None:
    assert "not shown: etcd: forbidden" in status_of(problems=("etcd: forbidden",))


def test_top_has_a_row_for_each_job_with_what_it_waits_for() -> None:
    jobs = [facts(), facts(condition("Progressing", "False", "Queued", "its turn"))]
    lines = shown(build_jobs(jobs, [find_waits(each, NOW) for each in jobs], NOW)).splitlines()
    assert "team-a/add" in lines[1]
    assert "3/9" in lines[1]
    assert "Queued: its turn" in lines[2]


def test_an_answer_cannot_act_on_the_terminal() -> None:
    sample = SampleRecord(3, 7, "1 + 1", 2, 0, "\x1b[2J[red]2", 1.0, {"exact": 1.0}, True, 3, "stop", 1, 2)
    text = shown(build_samples([sample]))
    assert "\\x1b[2J[red]2" in text
    assert "reward 1, 3 tokens, version 1 to 2, ended by stop" in text
    assert printable("a\tb\n\x07") == "a\tb\n\\x07"


def pod_body(**status: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {
            "name": "add-hybrid-0-x7k2p",
            "labels": {"tandem.dev/job": "add", "app.kubernetes.io/component": "hybrid"},
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
        },
        "spec": {"nodeName": "node0", "containers": [{"name": "trainer"}]},
        "status": {"phase": "Running", **status},
    }


def test_a_pod_has_the_name_that_members_have() -> None:
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": TIME}
    container = {"name": "trainer", "ready": False, "restartCount": 2, "state": {"running": {}}}
    found = parse_pod(pod_body(containerStatuses=[{**container, "lastState": {"terminated": ended}}]))
    assert (found.name, found.object_name, found.component) == ("add-hybrid-0", "add-hybrid-0-x7k2p", "hybrid")
    assert found.restarts == 2
    assert found.containers[0].last_end == "OOMKilled, exit code 137"
    assert found.troubles == ()


def test_an_image_that_cannot_be_pulled_is_a_trouble_of_the_pod() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not there"}}
    found = parse_pod(pod_body(containerStatuses=[{"name": "trainer", "state": waiting}]))
    assert "not there" in found.troubles[0]
    assert found.containers[0].state == "ImagePullBackOff"


def test_events_are_those_of_the_job_and_its_objects() -> None:
    def body(kind: str, name: str, **changes: Any) -> dict[str, Any]:
        about = {"kind": kind, "name": name}
        return {"metadata": {"creationTimestamp": TIME}, "involvedObject": about, "type": "Warning", **changes}

    found = parse_events(
        [
            body("RLJob", "add", lastTimestamp="2026-01-01T00:00:09Z", reason="Running"),
            body("Pod", "add-hybrid-0-x7k2p", reason="Failed", count=4),
            body("Pod", "add-hybrid-0-other"),
            body("RLJob", "addition"),
        ],
        "add",
        [pod_body()],
    )
    assert [(event.about, event.reason, event.count) for event in found] == [
        ("pod/add-hybrid-0-x7k2p", "Failed", 4),
        ("rljob/add", "Running", 1),
    ]


def test_a_job_of_another_version_is_shown_without_its_specification() -> None:
    body = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "RLJob",
        "metadata": {"name": "add", "namespace": "a", "creationTimestamp": TIME, "generation": 3},
        "spec": JOB.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        "status": {"phase": "Rollout", "iteration": 3},
    }
    assert parse_rljob(body).job is not None
    newer = parse_rljob({**body, "spec": {**body["spec"], "unheardOf": 1}})  # type: ignore[dict-item]
    assert newer.job is None
    assert newer.generation == 3


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, ["add-hybrid-0-x7k2p/trainer", "add-hybrid-10-x7k2p/trainer", "add-master-0-x7k2p/master"]),
        ("master", ["add-master-0-x7k2p/master"]),
        ("hybrid-0", ["add-hybrid-0-x7k2p/trainer"]),
        ("hybrid-1", ["add-hybrid-10-x7k2p/trainer"]),
        ("add-hybrid-10/trainer", ["add-hybrid-10-x7k2p/trainer"]),
    ],
)
def test_containers_are_named_by_the_beginning_of_their_pod(target: str | None, expected: list[str]) -> None:
    ten = parse_pod({**pod_body(), "metadata": {**pod_body()["metadata"], "name": "add-hybrid-10-x7k2p"}})
    pods = [pod(), pod(), pod("master")]
    pods[1] = type(pods[0])("add-hybrid-10", ten.object_name, "hybrid", "Running", True, "", pods[0].containers)
    assert [f"{each.object_name}/{name}" for each, name in select_containers(pods, target, "add")] == expected


def test_a_container_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(TandemError, match="no container nothing; there are: add-master-0-x7k2p/master"):
        select_containers([pod("master")], "nothing", "add")


def test_secrets_that_pods_use_are_found_by_their_names() -> None:
    body = pod_body()
    body["spec"]["volumes"] = [{"secret": {"secretName": "a"}}, {"projected": {"sources": [{"secret": {"name": "b"}}]}}]
    body["spec"]["containers"][0]["env"] = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}}]
    body["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "d"}}]
    assert find_secret_names([body]) == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (RunStatus.STOPPED, "Stopped: `tandem run FILE --resume` goes on where it was"),
        (RunStatus.RUNNING, "Lost: its runner has ended without a word; `tandem stop add` cleans up"),
        (RunStatus.FAILED, "Failed: no room"),
    ],
)
def test_a_run_on_this_machine_is_told_in_the_same_way(status: RunStatus, text: str) -> None:
    container = ContainerState(name="trainer", kind=ContainerKind.MAIN, condition=Condition.RUNNING, ready=True)
    state = RunState(
        job="add",
        uid="u",
        run_id="r",
        status=status,
        reason="no room",
        working_directory="/",  # type: ignore[arg-type]
        address_block="127.1.1.0/24",
        started_at=NOW - 60,
        ended_at=NOW,
        pods=(
            PodState(
                name="add-hybrid-0",
                workload="add-hybrid",
                address="127.1.1.2",
                condition=Condition.RUNNING,
                containers=(container,),
            ),
        ),
    )
    found = describe_run(state)
    assert text in shown(build_status(found, find_waits(found, NOW), NOW))
    assert found.pods[0].component == "hybrid"
    assert engine().pod == found.pods[0].name
