"""An iteration of the whole system against the bare loop (bench.bare_loop), on the same model, data and machine.

    .venv/bin/python -m bench.iteration [--iterations 60] [--rounds 2] [--restarts 12] [--no-write]

The two take turns, --rounds times; then one run follows in which the engine is ended and started for each iteration
(hybrid.inference.release: restart), for the parts of its switches.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.page import describe_machine, write_section
from bench.switches import SETTLED_AFTER, Run, read_run

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "addition.yaml"
SHORT = (
    "spec.warmup.steps=100",
    "spec.evaluation.every=0",
    "spec.evaluation.prompts=16",
    "spec.checkpoint.every=100000",
)
"""The warm-up is only long enough for answers to end as the reference answers do."""


def run_bare(iterations: int) -> dict[str, float]:
    """Median seconds of each part and of an iteration; tokens of an answer."""
    command = [sys.executable, "-m", "bench.bare_loop", str(EXAMPLE), "--iterations", str(iterations), *_settings()]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    parts = {name: result[name][SETTLED_AFTER:] for name in ("rollouts", "training", "weights")}
    medians = {name: statistics.median(values) for name, values in parts.items()}
    whole = statistics.median(map(sum, zip(*parts.values(), strict=True)))
    return medians | {"iteration": whole, "tokens_each": result["tokens_each"]}


def run_tandem(home: Path, iterations: int, release: str) -> Run:
    """One run; raises CalledProcessError if it fails."""
    name = f"iteration-{release}"
    command = [sys.executable, "-m", "tandem_local", "run", str(EXAMPLE), "--name", name, "--overwrite"]
    command += _settings(f"spec.iterations={iterations}", f"spec.hybrid.inference.release={release}")
    subprocess.run(command, env=os.environ | {"TANDEM_HOME": str(home)}, check=True, stdout=sys.stderr)
    return read_run(home, name)


def build_section(bare: Sequence[Mapping[str, float]], runs: Sequence[Run], restarting: Run) -> str:
    """The page's section."""
    lean = {name: statistics.median(each[name] for each in bare) for name in bare[0]}
    whole = statistics.median(run.iteration for run in runs)
    work = {name: statistics.median(run.work[name] for run in runs) for name in runs[0].work}
    orchestration = statistics.median(run.orchestration for run in runs)
    rows = [(name, lean[name], work[name]) for name in ("rollouts", "training", "weights")]
    table = "\n".join(f"| {name} | {_ms(a)} | {_ms(b)} | {b / a:.2f} |" for name, a, b in rows)
    ratios = ", ".join(f"{run.iteration / each['iteration']:.2f}" for run, each in zip(runs, bare, strict=True))
    return f"""`python -m bench.iteration`. {describe_machine()}

`examples/addition.yaml`: 32 prompts x 8 answers of at most 4 tokens ({lean["tokens_each"]:.2f} on average in the bare
loop, {runs[0].tokens_each:.2f} in Tandem), one optimiser step. The bare loop is `bench/bare_loop.py`: one Megatron
process, one vLLM server, nothing between them. Medians; the two took turns, {len(runs)} runs each.

| | bare loop | Tandem | ratio |
| --- | --- | --- | --- |
{table}
| all the rest | | {_ms(orchestration)} | |
| iteration | {_ms(lean["iteration"])} | {_ms(whole)} | {whole / lean["iteration"]:.2f} (by turn: {ratios}) |

Rollouts: from the first request to the last answer. Training: the step, without fetching the batch. Weights: written,
verified, loaded, probed (the bare loop does not verify or probe). All the rest is orchestration: phases through etcd,
pausing, recording the batch, handing it out.

From the last token to the first kernel of training:

{_build_switch([run.to_training for run in runs], restarting.to_training)}

From the optimiser step to the first request that the engine gets:

{_build_switch([run.to_inference for run in runs], restarting.to_inference)}
"""


def _build_switch(kept: Sequence[Mapping[str, float]], restarted: Mapping[str, float]) -> str:
    medians = {name: statistics.median(each[name] for each in kept) for name in kept[0]}
    rows = [f"| {name} | {_ms(medians[name])} | {_ms(restarted[name])} |" for name in medians]
    rows += [f"| sum | {_ms(sum(medians.values()))} | {_ms(sum(restarted.values()))} |"]
    return "\n".join(["| | release: none | release: restart |", "| --- | --- | --- |", *rows])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _settings(*more: str) -> list[str]:
    return [word for setting in (*SHORT, *more) for word in ("--set", setting)]


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=12, help="iterations of the run that restarts the engine")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()
    bare, runs = [], []
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        for _ in range(options.rounds):
            bare.append(run_bare(options.iterations))
            runs.append(run_tandem(home, options.iterations, "none"))
        restarting = run_tandem(home, options.restarts, "restart")
    section = build_section(bare, runs, restarting)
    print(section)
    if not options.no_write:
        write_section("iteration", section)


if __name__ == "__main__":
    main()
