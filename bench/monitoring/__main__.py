"""Every panel of every dashboard, answered by a real Prometheus that watches a real job; pictures for the docs.

    .venv/bin/python -m bench.monitoring [--iterations 150] [--pictures DIRECTORY]

Trains the example `addition`, shortened, on this machine, beside an operator on a control plane and a code sandbox.
Needs root, Debian's package prometheus, and the programs of the test cluster (`make cluster-build`).
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tandem_operator.generate.monitoring import DASHBOARDS

from bench.monitoring.answers import watch_job
from bench.monitoring.pictures import draw_dashboard

WARMUP_STEPS = 800
FIGURES = Path(__file__).parents[2] / "docs" / "figures"


def main() -> int:
    """Exit code: 1 if a panel stayed empty or a rule is not healthy."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.monitoring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=150, help="of the job (default: 150)")
    parser.add_argument("--pictures", type=Path, default=FIGURES, help="where they go (default: docs/figures)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-monitoring-") as directory:
        answers = watch_job(Path(directory), options.iterations, WARMUP_STEPS)
    for dashboard in DASHBOARDS:
        path = options.pictures / f"dashboard-{dashboard.name}.png"
        draw_dashboard(dashboard, answers, path)
        print(f"wrote {path}")
    sick = {name: health for name, health in answers.rules.items() if health != "ok"}
    for problem in [
        *(f"no answer: {panel}" for panel in answers.unanswered),
        *(f"rule {each}" for each in sick.items()),
    ]:
        print(problem, file=sys.stderr)
    print(f"{len(answers.lines) - len(answers.unanswered)} of {len(answers.lines)} panels have data")
    return 1 if answers.unanswered or sick else 0


if __name__ == "__main__":
    sys.exit(main())
