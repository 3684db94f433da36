"""Runs the demo with several seeds and writes docs/demo.md.

.venv/bin/python bench/demo_seeds.py            # five runs, about 20 minutes on 2 quiet cores
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tandem_rollout.storage.history_file import open_history

ROOT = Path(__file__).parents[1]
PHASES = ("Rollout", "Draining", "Training", "Publishing", "Loading")


@dataclass(frozen=True)
class Run:
    """What one run gave."""

    seed: int
    before: float
    after: float
    seconds: float
    iterations: int
    iteration_seconds: float
    phase_seconds: dict[str, float]
    curve: tuple[tuple[int, float], ...]


def run_demo(seed: int, home: Path) -> Run:
    """One run of examples/addition.yaml; raises CalledProcessError if it fails."""
    name = f"addition-seed-{seed}"
    command = [sys.executable, "-m", "tandem_local", "run", str(ROOT / "examples" / "addition.yaml")]
    command += ["--name", name, "--overwrite", "--set", f"spec.seed={seed}"]
    started = time.monotonic()
    subprocess.run(command, env=os.environ | {"TANDEM_HOME": str(home)}, check=True, stdout=sys.stderr)
    seconds = time.monotonic() - started
    with open_history(next((home / "runs" / name).rglob("replay.sqlite"))) as history:
        records = [record for record in history.iterations() if record.iteration]
        curve = tuple((record.iteration, record.accuracy) for record in history.evaluations())
    medians = {phase: statistics.median(r.phase_seconds.get(phase, 0.0) for r in records) for phase in PHASES}
    whole = statistics.median(sum(record.phase_seconds.get(phase, 0.0) for phase in PHASES) for record in records)
    return Run(seed, curve[0][1], curve[-1][1], seconds, len(records), whole, medians, curve)


def build_page(runs: list[Run]) -> str:
    """docs/demo.md."""
    gains = [run.after - run.before for run in runs]
    rows = "\n".join(
        f"| {run.seed} | {run.before:.3f} | {run.after:.3f} | {run.after - run.before:+.3f} | "
        f"{run.seconds:.0f} s | {run.iteration_seconds:.3f} s |"
        for run in runs
    )
    phases = "\n".join(
        f"| {phase} | {1000 * statistics.median(run.phase_seconds[phase] for run in runs):.0f} ms |" for phase in PHASES
    )
    curves = "\n".join(
        f"| {run.seed} | " + " | ".join(f"{accuracy:.2f}" for _, accuracy in run.curve) + " |" for run in runs
    )
    steps = " | ".join(str(iteration) for iteration, _ in runs[0].curve)
    line = "|".join(" --- " for _ in runs[0].curve)
    return f"""# The demo, run with {len(runs)} seeds

`bench/demo_seeds.py` runs `examples/addition.yaml` once for each seed and writes this page. Machine: {os.cpu_count()}
cores, {platform.machine()}, no GPU; {time.strftime("%Y-%m-%d")}. Time is from the command to its end, installation of
packages apart.

Accuracy is greedy, on held-out problems that are never trained on.

| seed | before RL | after RL | gain | whole time | one iteration (median) |
| --- | --- | --- | --- | --- | --- |
{rows}

Gains of at least 0.2: {sum(gain >= 0.2 for gain in gains)} of {len(runs)}. Smallest gain {min(gains):.3f}, median
{statistics.median(gains):.3f}.

## Accuracy by iteration

| seed | {steps} |
| --- |{line}|
{curves}

Greedy accuracy of so small a model goes up and down by several points between evaluations; the moving average of the
reward in the report is smoother.

## Where an iteration's time goes

Median of each phase ({runs[0].iterations} iterations of 256 answers).

| phase | seconds |
| --- | --- |
{phases}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "demo.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        runs = [run_demo(seed, Path(home)) for seed in arguments.seeds]
    arguments.output.write_text(build_page(runs))
    print(json.dumps([{"seed": run.seed, "before": run.before, "after": run.after} for run in runs]))


if __name__ == "__main__":
    main()
