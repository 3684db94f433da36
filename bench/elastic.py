"""Tokens a second of one running job with and without an inference pod.

    .venv/bin/python -m bench.elastic            # about 5 minutes on 2 quiet cores

The job is that of bench/counting.yaml with 64 groups of 8 answers and a budget of tokens, so that rollouts are limited
by what engines can do and not by the longest answer. It learns nothing, so that all iterations are alike. With
`tandem scale` an inference pod is added and removed again, several times; a stretch begins when the master has seen it.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_core.coordination.records import Summary
from tandem_rollout.storage.history import IterationRecord

from bench.counting import CountingJobs
from bench.page import describe_machine, write_section

NAME = "elastic"
SETTINGS = (
    "spec.elastic.max=1",
    "spec.iterations=100000",
    "spec.evaluation.prompts=16",
    "spec.algorithm.learningRate=1e-12",
    "spec.rollout.prompts=64",
    "spec.rollout.groupSize=8",
    "spec.rollout.tokensPerIteration=64",
)
POLL_SECONDS = 0.5
DEADLINE_SECONDS = 600.0


@dataclass(frozen=True)
class Stretch:
    """Iterations with the same number of inference pods."""

    pods: int
    first: int
    last: int


@dataclass(frozen=True)
class Measured:
    """What a stretch gave."""

    rollout_tokens_per_second: float
    """While rollouts run."""
    tokens_per_second: float
    """Of the whole loop."""
    iteration_seconds: float
    share: float
    """Of the tokens, how many inference pods generated."""
    behind: float
    """Most versions that a token was behind when it was trained on."""


def wait_for(home: Path, condition: Callable[[Summary], bool]) -> Summary:
    """The first summary of the job that fulfils the condition. Raises TimeoutError."""
    state_file = home / "runs" / NAME / "state.json"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        summary = json.loads(state_file.read_text())["summary"] if state_file.exists() else None
        if summary is not None and condition(Summary.model_validate(summary)):
            return Summary.model_validate(summary)
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"the job did not get there in {DEADLINE_SECONDS:g} s: see {home / NAME}.log")


def run_stretches(home: Path, jobs: CountingJobs, pods: Sequence[int], iterations: int) -> list[Stretch]:
    """A job that has as many inference pods as `pods` says, for so many iterations each."""
    process = jobs.start(NAME, SETTINGS)
    stretches = []
    try:
        for count in pods:
            _wait_for_iteration(home, 1)
            jobs.scale(NAME, count)
            first = _wait_for_engines(home, count + 1).iteration + 2
            last = first + iterations - 1
            _wait_for_iteration(home, last + 1)
            stretches.append(Stretch(count, first, last))
            print(f"{count} inference pods: iterations {first} to {last}", flush=True)
    finally:
        process.terminate()
        process.wait()
    return stretches


def _wait_for_engines(home: Path, engines: int) -> Summary:
    return wait_for(home, lambda summary: summary.engines_serving == engines)


def _wait_for_iteration(home: Path, iteration: int) -> Summary:
    return wait_for(home, lambda summary: summary.iteration >= iteration)


def measure(records: Sequence[IterationRecord], stretch: Stretch) -> Measured:
    """The numbers of a stretch; from the end of the iteration before to the end of its last one."""
    mine = [record for record in records if stretch.first <= record.iteration <= stretch.last]
    seconds = sum(sum(record.phase_seconds.values()) for record in mine)
    tokens = sum(record.metrics["generated_tokens"] for record in mine)
    return Measured(
        rollout_tokens_per_second=tokens / sum(record.metrics["rollout_seconds"] for record in mine),
        tokens_per_second=tokens / seconds,
        iteration_seconds=statistics.median(sum(record.phase_seconds.values()) for record in mine),
        share=sum(record.metrics["inference_tokens"] for record in mine) / tokens,
        behind=max(record.metrics["versions_behind_max"] for record in mine),
    )


def build_section(stretches: Sequence[Stretch], measured: Sequence[Measured]) -> str:
    """The section of docs/benchmarks.md."""
    rows = "\n".join(
        f"| {stretch.pods} | {stretch.first} to {stretch.last} | {each.iteration_seconds:.2f} s | "
        f"{each.rollout_tokens_per_second:.0f} | {each.tokens_per_second:.0f} | {each.share:.0%} | {each.behind:.0f} |"
        for stretch, each in zip(stretches, measured, strict=True)
    )
    rollouts, loop = (
        _mean(stretches, measured, 1, name) / _mean(stretches, measured, 0, name)
        for name in ("rollout_tokens_per_second", "tokens_per_second")
    )
    return f"""`python -m bench.elastic`: one job of `bench/counting.yaml` with 64 groups of 8 answers and
`tokensPerIteration: 64`; `tandem scale` adds an inference pod and removes it, in turns. {describe_machine()}

| pods | iterations | one iteration | tokens/s of rollouts | of the loop | by the pods | most versions behind |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

With an inference pod: **{rollouts:.2f}** times the tokens a second of rollouts, {loop:.2f} times those of the whole
loop. All pods share this machine's two cores, and an engine computes with one.
"""


def _mean(stretches: Sequence[Stretch], measured: Sequence[Measured], pods: int, name: str) -> float:
    pairs = zip(stretches, measured, strict=True)
    return statistics.mean(getattr(each, name) for stretch, each in pairs if stretch.pods == pods)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, nargs="+", default=[0, 1, 0, 1, 0])
    parser.add_argument("--iterations", type=int, default=15, help="of each stretch")
    parser.add_argument("--no-write", action="store_true", help="only print the section")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        jobs = CountingJobs(Path(home))
        stretches = run_stretches(Path(home), jobs, arguments.pods, arguments.iterations)
        records, _ = jobs.read(NAME)
    section = build_section(stretches, [measure(records, stretch) for stretch in stretches])
    print(section)
    if not arguments.no_write:
        write_section("elastic", section)


if __name__ == "__main__":
    main()
