"""Keeps what each fault cost, so that a run of chaos that is ended goes on where it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from tandem_core.phases import Phase

from bench.chaos.faults import Fault
from bench.chaos.timeline import Recovery

RESULTS = Path(__file__).with_name("results.jsonl")


@dataclass(frozen=True)
class Result:
    """A fault that a job got over, in a job that ended as it should."""

    seed: int
    iterations: int
    """Of each job."""
    job: str
    usual_seconds: float
    """Median of the job's undisturbed iterations."""
    planned: Fault
    phase: Phase
    """In which it really happened."""
    recovery: Recovery


_RESULT = TypeAdapter(Result)


def load_results(seed: int, iterations: int) -> list[Result]:
    """Those of earlier runs with the same seed and length of jobs."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    results = [_RESULT.validate_json(line) for line in lines]
    return [result for result in results if (result.seed, result.iterations) == (seed, iterations)]


def add_results(results: Sequence[Result]) -> None:
    """Keep them."""
    with RESULTS.open("ab") as file:
        file.writelines(_RESULT.dump_json(result) + b"\n" for result in results)
