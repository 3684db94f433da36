"""Runs jobs, and keeps what came out of each."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import TypeAdapter
from tandem_rollout.storage.history_file import open_history

from bench.ablations.experiments import VARIANTS
from bench.ablations.problems import write_problems

JOB = Path(__file__).with_name("job.yaml")
RESULTS = Path(__file__).with_name("results.jsonl")


@dataclass(frozen=True)
class Run:
    """What one job gave: held-out greedy answers at each evaluation."""

    variant: str
    seed: int
    iterations: tuple[int, ...]
    accuracy: tuple[float, ...]
    length: tuple[float, ...]
    """Mean tokens of an answer."""


_RUN = TypeAdapter(Run)


def load_runs() -> list[Run]:
    """All finished runs."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [_RUN.validate_json(line) for line in lines]


def run_variant(variant: str, seed: int, home: Path) -> Run:
    """Train from the base model, which is made first if need be; the result is added to RESULTS."""
    name = f"ablation-{list(VARIANTS).index(variant)}-{seed}"
    directory = run_job(name, (*from_base_model(home), f"spec.seed={seed}", *VARIANTS[variant]), home)
    with open_history(next(directory.rglob("replay.sqlite"))) as history:
        evaluations = history.evaluations()
    run = Run(
        variant=variant,
        seed=seed,
        iterations=tuple(each.iteration for each in evaluations),
        accuracy=tuple(round(each.accuracy, 4) for each in evaluations),
        length=tuple(round(fmean(len(sample.tokens) for sample in each.samples), 3) for each in evaluations),
    )
    with RESULTS.open("ab") as file:
        file.write(_RUN.dump_json(run) + b"\n")
    shutil.rmtree(directory)
    return run


def from_base_model(home: Path) -> tuple[str, ...]:
    """Settings of a job that starts from the model that only had the warm-up: one for all, so that only what is
    compared differs. It is trained if it is not there yet."""
    base, problems = home / "base", home / "problems"
    if not base.exists():
        write_problems(problems)
        # A job has at least one iteration; with so small a learning rate it changes nothing.
        once = ("spec.iterations=1", "spec.algorithm.learningRate=1e-12", "spec.evaluation.prompts=1")
        directory = run_job("ablation-base", (f"spec.data.dataset.path={problems / 'warmup.jsonl'}", *once), home)
        next(directory.rglob("model.safetensors")).parent.rename(base)
        shutil.rmtree(directory)
    return (
        f"spec.model={{path: {base}}}",
        "spec.warmup.steps=0",
        f"spec.data.dataset.path={problems / 'problems.jsonl'}",
    )


def run_job(name: str, settings: Sequence[str], home: Path) -> Path:
    """Run job.yaml with these settings; returns its run directory. Raises CalledProcessError if the job fails."""
    command = [sys.executable, "-m", "tandem_local", "run", str(JOB), "--name", name, "--overwrite"]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, env=os.environ | {"TANDEM_HOME": str(home)}, check=True, stdout=sys.stderr)
    return home / "runs" / name
