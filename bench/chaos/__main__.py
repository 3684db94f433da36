"""Strikes at running jobs, checks that nothing is lost, and measures recovery.

.venv/bin/python -m bench.chaos                             # about 45 minutes; writes docs/benchmarks.md
.venv/bin/python -m bench.chaos --minutes 4                 # a part of it; called again, it goes on with the rest
.venv/bin/python -m bench.chaos --list                      # what would happen
.venv/bin/python -m bench.chaos --only 'kill -9 rank' --no-write
"""

import argparse
import asyncio
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tandem_core.job import load_job

from bench.chaos.end_checks import check_end
from bench.chaos.faults import Fault, plan_faults
from bench.chaos.job_process import JOB_FILE, JobProcess
from bench.chaos.results import RESULTS, Result, add_results, load_results
from bench.chaos.struck_job import StruckJob
from bench.chaos.table import build_table
from bench.page import describe_machine, write_section


def main() -> int:
    """The exit code: 0 if every job got over everything."""
    options = _parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the job, too
    if options.fresh:
        RESULTS.unlink(missing_ok=True)
    faults = [fault for fault in plan_faults(options.seed) if re.search(options.only, str(fault))]
    done = {result.planned for result in load_results(options.seed, options.iterations)} if options.write else set()
    waiting = [fault for fault in faults if fault not in done]
    if options.list:
        print(*waiting, sep="\n")
        return 0
    home, until = Path(tempfile.mkdtemp(prefix="tandem-chaos-")), time.monotonic() + 60 * options.minutes
    problems, results = _strike(waiting, options, home, until)
    if results:
        print(build_table(results))
    if problems:
        print(f"\n{len(problems)} PROBLEMS; the runs are kept in {home}", *problems, sep="\n")
        return 1
    shutil.rmtree(home)
    if options.write and results:
        write_section("chaos", f"{build_table(load_results(options.seed, options.iterations))}\n\n{describe_machine()}")
    return 0


def _strike(
    faults: Sequence[Fault], options: argparse.Namespace, home: Path, until: float
) -> tuple[list[str], list[Result]]:
    """Problems and results of as many jobs as it takes, or as there is time for."""
    problems: list[str] = []
    results: list[Result] = []
    for confined in (False, True):
        queue = deque(fault for fault in faults if fault.confined is confined)
        while queue and time.monotonic() < until:
            process = JobProcess(home, f"chaos-{uuid.uuid4().hex[:6]}", options.iterations, confined)
            job = StruckJob(process, options.seed, until, _say)
            _run(job, queue)
            problems += [f"{process.name}: {problem}" for problem in job.problems]
            usual = job.timeline.usual_iteration_seconds()
            ours = [
                Result(options.seed, options.iterations, process.name, usual, strike.fault, strike.phase, recovery)
                for strike, recovery in job.recoveries
            ]
            results += ours
            if options.write and not job.problems:
                add_results(ours)
    return problems, results


def _run(job: StruckJob, queue: "deque[Fault]") -> None:
    _say(f"{job.job.name} starts, {len(queue)} faults to come")
    asyncio.run(job.run(queue))
    if not job.problems:
        job.problems += check_end(job.job, load_job(JOB_FILE, [f"spec.iterations={job.job.iterations}"]))
    _say(f"{job.job.name} ended with {job.job.exit_code}" + "".join(f"\n  PROBLEM {text}" for text in job.problems))


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the order, the phases and the moments")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only faults that match this regular expression")
    parser.add_argument("--iterations", type=int, default=300, help="of each job")
    parser.add_argument("--minutes", type=float, default=120.0, help="begin no fault after this time")
    parser.add_argument("--fresh", action="store_true", help="forget what faults cost in earlier runs")
    parser.add_argument("--list", action="store_true", help="print the faults and do nothing")
    parser.add_argument("--no-write", dest="write", action="store_false", help="keep nothing, and strike all of them")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
