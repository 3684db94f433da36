"""Partial rollouts against whole answers, where answer lengths have a long tail: speed, and learning a token.

    .venv/bin/python -m bench.partial_rollouts                 # five seeds, about 25 minutes on 2 quiet cores
    .venv/bin/python -m bench.partial_rollouts --seeds 0       # speed alone, about 5 minutes

The jobs are those of bench/counting.yaml. Both kinds take turns, seed by seed.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tandem_rollout.storage.history import EvaluationRecord, IterationRecord

from bench.counting import CountingJobs, seconds_of
from bench.page import describe_machine, write_section

BUDGET = 64
EVALUATE_EVERY = 8
WHOLE_ITERATIONS, PARTIAL_ITERATIONS = 24, 32
"""Both kinds then train on about as many tokens."""
SETTLING = 8
"""Iterations until carried-over answers are as many as they will be; left out of the speed."""


@dataclass(frozen=True)
class Measured:
    """What one job gave."""

    iteration_seconds: float
    rollout_seconds: float
    tokens_per_second: float
    """Generated tokens by the whole time, training included."""
    longest: float
    """Tokens of the longest answer of an iteration, the median of all."""
    curve: tuple[tuple[float, float], ...]
    """(tokens trained on so far, held-out accuracy)"""

    def accuracy_at(self, tokens: float) -> float:
        """Held-out accuracy after training on so many tokens, between two evaluations on the line between them."""
        return float(np.interp(tokens, [x for x, _ in self.curve], [y for _, y in self.curve]))


def measure(records: Sequence[IterationRecord], evaluations: Sequence[EvaluationRecord]) -> Measured:
    """The numbers of a run."""
    settled = records[SETTLING:]
    trained = np.cumsum([record.metrics["response_tokens"] * record.metrics["samples"] for record in records])
    return Measured(
        iteration_seconds=statistics.median(seconds_of(record) for record in settled),
        rollout_seconds=statistics.median(record.metrics["rollout_seconds"] for record in settled),
        tokens_per_second=sum(record.metrics["generated_tokens"] for record in settled) / sum(map(seconds_of, settled)),
        longest=statistics.median(record.metrics["response_tokens_max"] for record in settled),
        curve=tuple((float(trained[each.version - 1]) if each.version else 0.0, each.accuracy) for each in evaluations),
    )


def run_seed(jobs: CountingJobs, seed: int) -> tuple[Measured, Measured]:
    """Whole answers, and partial rollouts."""
    shared = [*jobs.from_base_model(), f"spec.seed={seed}", f"spec.evaluation.every={EVALUATE_EVERY}"]
    whole = jobs.run(f"whole-{seed}", [*shared, f"spec.iterations={WHOLE_ITERATIONS}"])
    budget = [f"spec.iterations={PARTIAL_ITERATIONS}", f"spec.rollout.tokensPerIteration={BUDGET}"]
    return measure(*whole), measure(*jobs.run(f"partial-{seed}", [*shared, *budget]))


def build_section(seeds: Sequence[int], results: Sequence[tuple[Measured, Measured]]) -> str:
    """The section of docs/benchmarks.md."""
    rows, gains, speeds = [], [], []
    for seed, (whole, partial) in zip(seeds, results, strict=True):
        common = min(whole.curve[-1][0], partial.curve[-1][0])
        at_whole, at_partial = whole.accuracy_at(common), partial.accuracy_at(common)
        gains.append(at_partial - at_whole)
        speeds.append(partial.tokens_per_second / whole.tokens_per_second)
        rows.append(
            f"| {seed} | {whole.iteration_seconds:.2f} / {partial.iteration_seconds:.2f} s | "
            f"{whole.rollout_seconds:.2f} / {partial.rollout_seconds:.2f} s | "
            f"{whole.tokens_per_second:.0f} / {partial.tokens_per_second:.0f} | **{speeds[-1]:.2f}** | "
            f"{whole.curve[0][1]:.2f} | {common / 1000:.0f}k | {at_whole:.3f} / {at_partial:.3f} | {gains[-1]:+.3f} |"
        )
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    table = "\n".join(rows)
    longest = statistics.median(whole.longest for whole, _ in results)
    return f"""`python -m bench.partial_rollouts`: `bench/counting.yaml`, 32 groups of 4 answers in progress.
The longest answer of an iteration has {longest:.0f} tokens, half of all have fewer than 7. In each cell: whole
answers / `tokensPerIteration: {BUDGET}`. Times are medians, tokens/s those of the whole loop. {describe_machine()}

| seed | iteration | rollouts | tokens/s | ratio | accuracy before | trained tokens | accuracy then | difference |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{table}

Tokens a second: {min(speeds):.2f} to {max(speeds):.2f} times those of whole answers. Held-out greedy accuracy after the
same number of trained tokens: {statistics.mean(gains):+.3f} on average (standard error {error:.3f}). The first
{SETTLING} iterations are left out of the speed: carried-over answers become more until then.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--no-write", action="store_true", help="only print the section")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        jobs = CountingJobs(Path(home))
        results = []
        for seed in arguments.seeds:
            results.append(run_seed(jobs, seed))
            section = build_section(arguments.seeds[: len(results)], results)
            print(section, flush=True)
    if not arguments.no_write:
        write_section("partial", section)


if __name__ == "__main__":
    main()
