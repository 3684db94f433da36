"""The long-tailed counting task of bench/counting.yaml: its dataset, and running jobs of it."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tandem_rollout.storage.history import EvaluationRecord, IterationRecord, open_history

ROOT = Path(__file__).parents[1]
NUMBERS = 200
LONGEST = 150
TAIL = 1.1
"""Exponent of the Pareto distribution of lengths: the mean is several times the median."""


def draw_length(rng: random.Random) -> int:
    """Tokens of an answer: at least 3, half of them up to 6, one in 60 more than 120."""
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
        self._settings = [
            f"spec.data.dataset.path={write_dataset(home)}",
            f"spec.model.scratch.tokenizer.tokens={tokens}",
        ]

    def start(self, name: str, settings: Sequence[str]) -> "subprocess.Popen[bytes]":
        """`tandem run` in a process of its own; what it prints goes to NAME.log."""
        overrides = [part for setting in (*self._settings, *settings) for part in ("--set", setting)]
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
