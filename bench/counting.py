"""The long-tailed counting task of bench/counting.yaml: its dataset, and running jobs of it."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tandem_rollout.storage.history import EvaluationRecord, IterationRecord
from tandem_rollout.storage.history_file import open_history

ROOT = Path(__file__).parents[1]
NUMBERS = 600
LONGEST = 500
TAIL = 1.0
"""Exponent of the Pareto distribution of lengths: the mean is several times the median."""


def draw_length(rng: random.Random) -> int:
    """Tokens of an answer: at least 3, half of them up to 6, one in 40 more than 120."""
    return min(LONGEST, int(3 * rng.paretovariate(TAIL)))


def write_dataset(directory: Path, size: int = 4000) -> Path:
    """A file of prompts and answers, always the same."""
    rng = random.Random(0)
    path = directory / "counting.jsonl"
    with path.open("w") as file:
        for _ in range(size):
            length = draw_length(rng)
            first = rng.randrange(NUMBERS - length)
            answer = "".join(f" {number}" for number in range(first, first + length))
            print(json.dumps({"prompt": f" {first} {first + length - 1}:", "answer": answer}), file=file)
    return path


class CountingJobs:
    """Runs of bench/counting.yaml below one directory."""

    def __init__(self, home: Path) -> None:
        self._home = home
        tokens = json.dumps([":", *(f" {number}" for number in range(NUMBERS))])
        self._data = f"spec.data.dataset.path={write_dataset(home)}"
        self._scratch = f"spec.model.scratch.tokenizer.tokens={tokens}"

    def from_base_model(self) -> tuple[str, ...]:
        """Settings of a job that starts from the model that only had the warm-up: one for all, so that only what is
        compared differs. It is trained if it is not there yet."""
        base = self._home / "base"
        if not base.exists():
            # A job has at least one iteration; with so small a learning rate it changes nothing.
            self.run("base-model", ["spec.iterations=1", "spec.algorithm.learningRate=1e-12"])
            next((self._home / "runs" / "base-model").rglob("model.safetensors")).parent.rename(base)
        return f"spec.model={{path: {base}}}", "spec.warmup.steps=0"

    def start(self, name: str, settings: Sequence[str]) -> "subprocess.Popen[bytes]":
        """`tandem run` in a process of its own; what it prints goes to NAME.log."""
        model = () if any(setting.startswith("spec.model=") for setting in settings) else (self._scratch,)
        overrides = [part for setting in (self._data, *model, *settings) for part in ("--set", setting)]
        return self._tandem(name, "run", str(ROOT / "bench" / "counting.yaml"), "--name", name, *overrides)

    def scale(self, name: str, pods: int) -> None:
        """`tandem scale`."""
        code = self._tandem(name, "scale", name, str(pods)).wait()
        if code:
            raise RuntimeError(f"tandem scale {name} {pods} exited with {code}: see {self._home / name}.log")

    def run(self, name: str, settings: Sequence[str]) -> tuple[list[IterationRecord], list[EvaluationRecord]]:
        """A whole run's iterations (without the warm-up) and evaluations. Raises RuntimeError if it fails."""
        code = self.start(name, settings).wait()
        if code:
            raise RuntimeError(f"tandem run exited with {code}: see {self._home / name}.log")
        return self.read(name)

    def read(self, name: str) -> tuple[list[IterationRecord], list[EvaluationRecord]]:
        """What a run has recorded so far."""
        with open_history(next((self._home / "runs" / name).rglob("replay.sqlite"))) as history:
            return [record for record in history.iterations() if record.iteration], history.evaluations()

    def _tandem(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self._home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tandem_local", *arguments],
                env=os.environ | {"TANDEM_HOME": str(self._home)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def seconds_of(record: IterationRecord) -> float:
    """How long an iteration took, evaluations apart."""
    return sum(record.phase_seconds.values())
