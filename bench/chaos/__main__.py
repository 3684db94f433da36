"""Strikes at running jobs, checks that nothing is lost, and measures recovery.

.venv/bin/python -m bench.chaos                             # about 25 minutes; writes docs/benchmarks.md
.venv/bin/python -m bench.chaos --list                      # what would happen
.venv/bin/python -m bench.chaos --only 'kill -9 rank' --no-write
"""

import argparse
import asyncio
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from tandem_core.job import load_job

from bench.chaos.end_checks import check_end
from bench.chaos.faults import Fault, plan_faults
from bench.chaos.job_process import JOB_FILE, JobProcess
from bench.chaos.struck_job import StruckJob
from bench.chaos.table import build_table
from bench.page import describe_machine, write_section


def main() -> int:
    """The exit code: 0 if every job got over everything."""
    options = _parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the job, too
    faults = [fault for fault in plan_faults(options.seed, full=options.full) if re.search(options.only, str(fault))]
    if options.list:
        print(*faults, sep="\n")
        return 0
    home = Path(tempfile.mkdtemp(prefix="tandem-chaos-"))
    choice = random.Random(options.seed)
    jobs: list[StruckJob] = []
    for confined in (False, True):
        queue = deque(fault for fault in faults if fault.confined is confined)
        while queue:
            process = JobProcess(home, f"chaos-{len(jobs)}", options.iterations, confined)
            jobs.append(StruckJob(process, choice, _say))
            _run(jobs[-1], queue)
    problems = [f"{job.job.name}: {problem}" for job in jobs for problem in job.problems]
    table = build_table(
        [recovery for job in jobs for recovery in job.recoveries],
        seed=options.seed,
        jobs=len(jobs),
        iterations=options.iterations,
        usual=statistics.median(job.timeline.usual_iteration_seconds() for job in jobs) if jobs else 0.0,
    )
    print(table)
    if problems:
        print(f"\n{len(problems)} PROBLEMS; the runs are kept in {home}", *problems, sep="\n")
        return 1
    shutil.rmtree(home)
    if options.write:
        write_section("chaos", f"{table}\n\n{describe_machine()}")
    return 0


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
    parser.add_argument("--full", action="store_true", help="also the slow faults in every phase")
    parser.add_argument("--iterations", type=int, default=300, help="of each job")
    parser.add_argument("--list", action="store_true", help="print the faults and do nothing")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
