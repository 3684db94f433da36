"""The main job through the real system: `tandem run` as a user calls it, cut short to a few iterations."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tandem_rollout.storage.history import EvaluationRecord
from tandem_rollout.storage.history_file import open_history
from transformers import AutoModelForCausalLM, AutoTokenizer

from .running_jobs import find_leftovers

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"
ITERATIONS = 6


def command(name: str, *arguments: str) -> list[str]:
    settings = (f"spec.iterations={ITERATIONS}", "spec.warmup.steps=40", "spec.evaluation.prompts=64")
    cut = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "tandem_local", "run", str(EXAMPLE), "--name", name, *cut, *arguments]


def history(home: Path, name: str) -> Path:
    return next((home / "runs" / name).rglob("replay.sqlite"))


def run(home: Path, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"TANDEM_HOME": str(home)}
    return subprocess.run(
        command(name, *arguments), env=environment, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def finished(home: Path) -> str:
    """The name of a job that ran to its end."""
    done = run(home, "whole")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "held-out accuracy" in done.stdout
    assert find_leftovers(home, "whole") == []
    return "whole"


def test_every_iteration_was_trained_once(home: Path, finished: str) -> None:
    state = json.loads((home / "runs" / finished / "state.json").read_text())
    assert state["status"] == "succeeded"
    assert state["summary"]["iteration"] == ITERATIONS
    with open_history(history(home, finished)) as reader:
        iterations = reader.iterations()
        assert [record.iteration for record in iterations if record.iteration] == list(range(1, ITERATIONS + 1))
        for record in iterations:
            if record.iteration:
                assert len(reader.samples(record.iteration, limit=10_000)) == record.metrics["trained_samples"]
                assert record.metrics["logprob_difference_max"] < 1e-4


def test_the_trained_model_gives_the_tokens_that_the_engine_served(home: Path, finished: str) -> None:
    directory = next((home / "runs" / finished).rglob("model/model.safetensors")).parent
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with open_history(history(home, finished)) as reader:
        last: EvaluationRecord = reader.evaluations()[-1]
    assert last.version == ITERATIONS
    for sample in last.samples[:32]:
        prompt = tokenizer(sample.prompt, return_tensors="pt")["input_ids"]
        served = list(sample.tokens)
        with torch.no_grad():
            logits = model(torch.cat([prompt, torch.tensor([served])], dim=1)).logits[0]
        choices = logits[prompt.shape[1] - 1 : -1].numpy()
        chosen = choices[np.arange(len(served)), served]
        np.testing.assert_allclose(chosen, choices.max(axis=1), atol=1e-4)


def test_the_report_is_one_file_that_needs_no_network(home: Path, finished: str) -> None:
    page = (home / "runs" / finished / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "src=" not in page.replace('src="data:', "")
    assert "Calculate" in page


def test_a_finished_job_can_still_be_asked_for_its_status_and_samples_and_diagnosed(home: Path, finished: str) -> None:
    def tandem(*arguments: str) -> str:
        environment = os.environ | {"TANDEM_HOME": str(home)}
        command = [sys.executable, "-m", "tandem_local", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout

    status = tandem("status", finished)
    assert f"{finished}  Done, iteration {ITERATIONS}/{ITERATIONS}" in status
    assert "Complete" in status
    assert "Timeline (seconds)" in status
    assert "Calculate" in tandem("samples", finished, "--limit", "1")
    file = home / "diagnosis.tar.gz"
    token = (home / "runs" / finished / "token").read_text().strip()
    printed = tandem("diagnose", finished, "--output", str(file))
    with tarfile.open(file) as archive:
        contents = {each.name: archive.extractfile(each) for each in archive.getmembers()}
        texts = {name: content.read().decode() for name, content in contents.items() if content is not None}
    assert "diagnosis/logs/whole-master-0/master.log" in texts
    assert not [name for name, text in texts.items() if token in text]
    assert "Nothing that is known to be wrong was found" in printed, printed
