"""The `tandem` command: help, quick start-up, errors for people."""

import subprocess
import sys
from pathlib import Path

import pytest
from tandem_local import kubectl_cli
from tandem_local.cli import app
from typer.testing import CliRunner

COMMANDS = [
    *("run", "ps", "status", "top", "samples", "logs", "diagnose", "scale", "stop", "report", "validate", "render"),
    *("init-model", "doctor"),
]
KUBECTL_COMMANDS = ["status", "top", "samples", "logs", "diagnose"]
HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "megatron",
    "sqlalchemy",
    "datasets",
    "plotly",
    "pydantic",
    "etcd3aio",
    "yaml",
)

GOOD_JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: add}
spec:
  iterations: 2
  model: {scratch: {tokenizer: {tokens: ["0", "1"]}}}
  data: {dataset: {path: p.jsonl}}
  rewards: {scorers: [{type: exact}]}
  hybrid: {device: cpu, inference: {release: none, kvCacheBytes: 67108864}}
"""


def tandem(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "tandem_local", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"TANDEM_HOME": str(home), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_by_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"tandem {command}" in result.output


@pytest.mark.parametrize("command", KUBECTL_COMMANDS)
def test_every_command_of_the_plugin_teaches_by_example(command: str) -> None:
    result = CliRunner().invoke(kubectl_cli.app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"kubectl tandem {command}" in result.output
    assert "--namespace" in result.output


def test_making_test_cases_teaches_by_example_and_shows_the_papers_numbers() -> None:
    result = CliRunner().invoke(app, ["data", "testcases", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "tandem data testcases problems.jsonl train.jsonl" in result.output
    assert all(f"[default: {number}]" in result.output for number in (50, 10, 7, 9))


def test_help_lists_the_commands_and_not_the_internal_one() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert all(command in result.output for command in COMMANDS)
    assert "serve" not in result.output


@pytest.mark.parametrize("module", ["cli", "kubectl_cli"])
def test_help_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, tandem_local.{module}; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    imported = {name.partition(".")[0] for name in output.split()}
    assert "tandem_local" in imported
    assert not imported & set(HEAVY)


def test_validate_reports_every_file_and_fails_for_a_bad_one(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD_JOB)
    bad.write_text(GOOD_JOB.replace("iterations: 2", "iteration: 2"))
    result = tandem("validate", str(bad), str(good), home=tmp_path)
    assert result.returncode == 2
    assert "did you mean iterations?" in result.stdout
    assert f"ok  {good}" in result.stdout
    assert "Traceback" not in result.stderr


def test_what_a_job_names_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(GOOD_JOB)
    task, model = "spec.data={reasoningGym: {task: chain_sums}}", f"spec.model={{path: {tmp_path}/absent}}"
    file = f"spec.data={{dataset: {{path: {tmp_path}/absent.jsonl}}}}"
    validated = tandem("validate", str(job), "--set", task, home=tmp_path)
    assert validated.returncode == 2
    assert "job.yaml: data.reasoningGym.task 'chain_sums'" in validated.stdout
    for setting, message in ((task, "did you mean chain_sum"), (model, "it does not exist"), (file, "is not a file")):
        result = tandem("run", str(job), "--force", "--set", setting, home=tmp_path)
        assert result.returncode == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_render_prints_what_the_operator_would_make(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(GOOD_JOB)
    result = tandem("render", str(job), "--set", "spec.hybrid.replicas=3", home=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "name: add-hybrid" in result.stdout
    assert "completions: 3" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.yaml"), "cannot read the job file missing.yaml"),
        (("run", "missing.yaml", "--resume", "--overwrite"), "leave one of them out"),
        (("logs",), "`tandem run FILE` starts one"),
        (("stop", "nothing"), "there is no run 'nothing'"),
        (("report",), "there is no run"),
        (("status",), "there is no run"),
        (("samples", "nothing"), "there is no run 'nothing'"),
        (("diagnose",), "`tandem run FILE` starts one"),
        (("init-model", "m", "--key-value-heads", "3"), "must divide attentionHeads"),
        (("data", "testcases", "missing.jsonl", "out.jsonl"), "cannot read the problems missing.jsonl"),
        (("data", "testcases", "a", "b", "--agree", "11"), "--agree is 11: it must be from 1 to 10"),
        (("data", "testcases", "a", "b", "--model", "m"), "both --model-url and --model"),
    ],
)
def test_mistakes_are_told_in_one_message_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = tandem(*arguments, home=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_plugin_says_when_kubectl_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tandem_local.kubectl_cli", "status", "add"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "kubectl is not on the PATH" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_top_without_runs_says_so(tmp_path: Path) -> None:
    result = tandem("top", home=tmp_path)
    assert (result.returncode, result.stdout) == (0, "no jobs\n")


def test_ps_without_runs_is_an_empty_table(tmp_path: Path) -> None:
    result = tandem("ps", home=tmp_path)
    assert result.returncode == 0
    assert "job" in result.stdout
