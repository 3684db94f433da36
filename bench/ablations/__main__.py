"""The paper's ablations in small: runs what is missing, then writes docs/ablations.md and docs/figures.

    python -m bench.ablations              # 6 variants x 5 seeds, about an hour on 2 quiet cores
    python -m bench.ablations --seeds 0    # only writes the page from the results that are there

Finished runs are kept in bench/ablations/results.jsonl. --fresh forgets them, and the base model, which is kept below
$TANDEM_HOME/ablations.
"""

import argparse
import shutil

from tandem_local.run_directory import tandem_home

from bench.ablations.experiments import VARIANTS
from bench.ablations.page import write_page
from bench.ablations.runs import RESULTS, load_runs, run_variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="run seeds 0 to SEEDS - 1")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--fresh", action="store_true", help="run again what was run")
    options = parser.parse_args()
    home = tandem_home() / "ablations"
    if options.fresh:
        shutil.rmtree(home, ignore_errors=True)
        RESULTS.unlink(missing_ok=True)
    finished = {(run.variant, run.seed) for run in load_runs()}
    wanted = [(variant, seed) for seed in range(options.seeds) for variant in options.variants]
    missing = [each for each in wanted if each not in finished]
    for number, (variant, seed) in enumerate(missing, 1):
        run = run_variant(variant, seed, home)
        print(f"{number}/{len(missing)} {variant}, seed {seed}: {run.accuracy[0]} -> {run.accuracy[-1]}", flush=True)
    write_page(load_runs())


if __name__ == "__main__":
    main()
