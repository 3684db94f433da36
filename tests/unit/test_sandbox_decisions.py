"""What the sandbox decides without doing anything: when to end a program, what its output is worth, what is allowed."""

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from tandem_core.errors import TandemError
from tandem_core.sandbox.judging import CaseResult, ExactChecker, FloatsChecker, JudgeRequest, TokensChecker
from tandem_core.sandbox.messages import File, Limits, RunRequest, Verdict
from tandem_sandbox.bundle import LanePlaces, build_bundle
from tandem_sandbox.checkers import find_difference
from tandem_sandbox.control_groups import observe_hierarchies
from tandem_sandbox.files_out import read_outputs
from tandem_sandbox.images.image import Image
from tandem_sandbox.job import Outcome
from tandem_sandbox.judging import summarize
from tandem_sandbox.run_watch import Moment, Stop, blame_memory, plan_stop, plan_wait_seconds
from tandem_sandbox.script import build_script
from tandem_sandbox.seccomp import build_seccomp
from tandem_sandbox.verdicts import verdict_of

START = Moment(0, 0)


@pytest.mark.parametrize(
    ("limits", "now", "stop"),
    [
        (Limits(cpu_seconds=2), Moment(1.9, 1.9), None),
        (Limits(cpu_seconds=2), Moment(9, 2), Stop.CPU),
        (Limits(cpu_seconds=2), Moment(3.9, 0.01), None),
        (Limits(cpu_seconds=2), Moment(4, 0.01), Stop.IDLE),
        (Limits(cpu_seconds=2), Moment(4, 0.21), None),
        (Limits(cpu_seconds=2), Moment(30, 1.9), None),
        (Limits(cpu_seconds=2), Moment(50, 1.9), Stop.STARVED),
        (Limits(cpu_seconds=2, wall_seconds=3), Moment(2.9, 0), None),
        (Limits(cpu_seconds=2, wall_seconds=3), Moment(3, 1.9), Stop.WALL),
        (Limits(cpu_seconds=2, wall_seconds=30), Moment(29, 0), None),
    ],
)
def test_processor_time_decides_and_the_clock_only_for_idle_programs(
    limits: Limits, now: Moment, stop: Stop | None
) -> None:
    assert plan_stop(limits, now, START) == stop


def test_a_look_is_due_no_later_than_anything_can_happen() -> None:
    assert plan_wait_seconds(Limits(cpu_seconds=2), Moment(1, 0.5), START) == 1.5
    assert plan_wait_seconds(Limits(cpu_seconds=2, cpus=2), Moment(1, 0.5), START) == 0.75
    assert plan_wait_seconds(Limits(cpu_seconds=9, wall_seconds=3), Moment(1, 0.5), START) == 2
    assert plan_wait_seconds(Limits(cpu_seconds=2), Moment(4, 2.5), START) > 0


def test_time_that_was_spent_looking_for_memory_is_memorys_fault() -> None:
    limits = Limits(memory_bytes=100 << 20)
    assert blame_memory(Stop.CPU, 99 << 20, limits) == Stop.MEMORY
    assert blame_memory(Stop.CPU, 90 << 20, limits) == Stop.CPU
    assert blame_memory(Stop.OUTPUT, 99 << 20, limits) == Stop.OUTPUT


def outcome(exit_code: int | None = 0, stop: Stop | None = None, *, out_of_memory: bool = False) -> Outcome:
    return Outcome(exit_code, stop, b"", b"", 0.1, 0.1, 1000, out_of_memory)


@pytest.mark.parametrize(
    ("happened", "verdict"),
    [
        (outcome(), Verdict.OK),
        (outcome(1), Verdict.RE),
        (outcome(139), Verdict.RE),
        (outcome(137, out_of_memory=True), Verdict.MLE),
        (outcome(None, Stop.CPU), Verdict.TLE),
        (outcome(None, Stop.IDLE), Verdict.TLE),
        (outcome(None, Stop.MEMORY), Verdict.MLE),
        (outcome(None, Stop.OUTPUT, out_of_memory=True), Verdict.OLE),
        (outcome(None, Stop.STARVED), Verdict.IE),
        (outcome(None, Stop.CANCELLED), Verdict.IE),
    ],
)
def test_each_end_has_its_verdict(happened: Outcome, verdict: Verdict) -> None:
    assert verdict_of(happened, Limits())[0] == verdict


@pytest.mark.parametrize(
    ("checker", "output", "expected", "right"),
    [
        (ExactChecker(), b"a b\n", "a b", True),
        (ExactChecker(), b"a  b", "a b", False),
        (ExactChecker(), b"a b c", "a b", False),
        (TokensChecker(), b"a\n\tb \n", "a b", True),
        (TokensChecker(), b"a", "a b", False),
        (TokensChecker(), b"A", "a", False),
        (TokensChecker(ignore_case=True), b"A", "a", True),
        (TokensChecker(), b"\xff", "a", False),
        (FloatsChecker(), b"0.3333333 x", "0.33333333 x", True),
        (FloatsChecker(), b"0.334", "0.333", False),
        (FloatsChecker(), b"1000001", "1000000", True),
        (FloatsChecker(), b"nan", "1", False),
        (FloatsChecker(), b"inf", "1", False),
        (FloatsChecker(), b"inf", "inf", True),
        (FloatsChecker(), b"1_0", "10.0", False),
        (FloatsChecker(absolute=0.5, relative=0), b"10.4", "10", True),
    ],
)
def test_checkers_compare_as_they_say(
    checker: ExactChecker | TokensChecker | FloatsChecker, output: bytes, expected: str, right: bool
) -> None:
    assert (find_difference(checker, output, expected) is None) == right


def test_what_the_sandbox_failed_at_outweighs_a_wrong_answer() -> None:
    cases = [CaseResult(verdict=verdict) for verdict in (Verdict.OK, Verdict.WA, Verdict.IE)]
    assert summarize(cases).verdict == Verdict.IE
    assert summarize(cases[:2]).verdict == Verdict.WA
    assert summarize(cases[:1]).verdict == Verdict.OK


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "a//b", "", ".", "a/.", "x\0y"])
def test_files_stay_below_the_working_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        RunRequest(command=("true",), files={path: File(text="")})
    with pytest.raises(ValidationError):
        RunRequest(command=("true",), outputs=(path,))


def test_requests_that_make_no_sense_are_refused() -> None:
    for request in ({}, {"command": ["true"], "source": {"language": "c", "code": ""}}, {"command": ["a\0b"]}):
        with pytest.raises(ValidationError):
            RunRequest.model_validate(request)
    with pytest.raises(ValidationError):
        RunRequest(command=("true",), environment={"A B": "x"})
    with pytest.raises(ValidationError):
        File(text="a", base64="YQ==")
    with pytest.raises(ValidationError):
        JudgeRequest.model_validate({"programs": [{"language": "c", "code": ""}], "cases": [{}], "checker": {}})


def test_a_request_survives_its_own_json() -> None:
    request = JudgeRequest.model_validate(
        {"programs": [{"language": "c", "code": "x"}], "cases": [{"stdin": "1"}], "checker": {"kind": "floats"}}
    )
    assert JudgeRequest.model_validate_json(request.model_dump_json()) == request


def test_words_of_a_request_cannot_become_words_of_the_shell() -> None:
    script = build_script(["pro gram", "a'b; reboot", "$(x)"], {"NAME": "`y`'"}).decode()
    assert "NAME='`y`'\"'\"'' exec 'pro gram' 'a'\"'\"'b; reboot' '$(x)'" in script


def test_a_container_has_every_namespace_and_no_capability(tmp_path: Path) -> None:
    places = LanePlaces(3, tmp_path)
    bundle = build_bundle(Image(name="x", root=tmp_path), places, build_seccomp("x86_64"))
    assert {each["type"] for each in bundle["linux"]["namespaces"]} == {
        "user", "pid", "mount", "ipc", "uts", "network", "cgroup",
    }  # fmt: skip
    assert not any(bundle["process"]["capabilities"].values())
    assert bundle["process"]["noNewPrivileges"]
    assert bundle["process"]["user"]["uid"] != 0
    assert bundle["linux"]["uidMappings"][0]["hostID"] > 1 << 20
    allowed = {
        name for rule in bundle["linux"]["seccomp"]["syscalls"] for name in rule["names"] if "ALLOW" in str(rule)
    }
    assert not allowed & {"ptrace", "mount", "bpf", "keyctl", "unshare", "setns", "clone3", "io_uring_setup", "chroot"}
    json.dumps(bundle)


HYBRID = """\
31 22 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 22 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 22 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 22 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


def test_groups_are_made_below_our_own_whatever_the_layout() -> None:
    own = "4:memory:/box\n3:cpu,cpuacct:/\n2:pids:/a/b\n0::/\n"
    folders = [str(path) for path in observe_hierarchies(HYBRID, own).group_paths("x")]
    assert sorted(folders) == [
        "/sys/fs/cgroup/cpu,cpuacct/x", "/sys/fs/cgroup/memory/box/x", "/sys/fs/cgroup/pids/a/b/x",
    ]  # fmt: skip
    unified = "30 22 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert observe_hierarchies(unified, "0::/\n").group_paths("x") == [Path("/sys/fs/cgroup/x")]
    with pytest.raises(TandemError, match="without pids"):
        observe_hierarchies(HYBRID.replace("rw,pids", "rw,rdma"), own)


def test_returned_files_are_plain_files_below_the_folder(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "deep" / "er").mkdir(parents=True)
    (work / "deep" / "er" / "x").write_bytes(b"12345")
    (tmp_path / "secret").write_text("secret")
    (work / "link").symlink_to("../secret")
    (work / "folder").symlink_to("..")
    os.mkfifo(work / "pipe")
    found, left_out = read_outputs(work, ("deep/er/x", "link", "folder/secret", "pipe", "deep", "none"), 100)
    assert {path: file.data for path, file in found.items()} == {"deep/er/x": b"12345"}
    assert left_out == ("link", "folder/secret", "pipe", "deep", "none")
    assert read_outputs(work, ("**",), 4)[0] == {}
    assert set(read_outputs(work, ("**",), 5)[0]) == {"deep/er/x"}
