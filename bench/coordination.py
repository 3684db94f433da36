"""How long a phase takes to reach all members through etcd, and their acknowledgements to come back.

    .venv/bin/python -m bench.coordination [--members 10 100 1000] [--rounds 20] [--no-write]

The master's side is what a job's master runs (Leadership, PhaseBarriers). Members are tasks in a few processes; each
watches the phase with a Mirror of its own and puts its acknowledgement, as a trainer rank does. They share the cores
with etcd and the master, so the time for many members is mostly that of the simulated members themselves; the
master's own processor time for a round is given apart.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Member, PhaseRecord
from tandem_core.coordination.store import Store
from tandem_core.job import RLJob, load_job
from tandem_core.phases import Phase
from tandem_rollout.phase_barriers import PhaseBarriers

from bench.etcd import serve_etcd
from bench.page import describe_machine, write_section

EXAMPLE = Path(__file__).parents[1] / "examples" / "addition.yaml"
JOB_UID = "coordination"
START_SECONDS = 120.0
WARM_UP = 3
"""Rounds that are left out."""


@dataclass(frozen=True)
class Rounds:
    """Medians over the rounds, in seconds."""

    members: int
    heard: float
    """From the master's write until the last member saw the phase."""
    answered: float
    """Until the master's barrier has all acknowledgements."""
    processor: float
    """Of the master, in a round."""


async def drive(endpoint: str, job: RLJob, rounds: int) -> Rounds:
    """The master's part: phase after phase."""
    keys, size = JobKeys(JOB_UID), job.spec.hybrid.world_size
    heard, answered, processor = [], [], []
    async with (
        Store(endpoint) as store,
        Leadership(store, keys, "master") as leadership,
        Mirror(store, keys.members, Member) as members,
        PhaseBarriers(job, store, keys, members) as barriers,
    ):
        await members.wait_for(lambda found: len(found) == size, START_SECONDS)
        for iteration in range(1, rounds + WARM_UP + 1):
            phase = Phase.TRAINING
            started, used = time.time(), time.process_time()
            record = PhaseRecord(
                iteration=iteration, phase=phase, version=0, token=leadership.token, started_at=started
            )
            await leadership.write({keys.phase: record}, delete_prefixes=[keys.acks(iteration - 1)])
            acks = await barriers.wait_for_trainers(phase, iteration)
            answered.append(time.time() - started)
            processor.append(time.process_time() - used)
            heard.append(max(ack.measurements["seen_at"] for ack in acks) - started)
    medians = (statistics.median(values[WARM_UP:]) for values in (heard, answered, processor))
    return Rounds(len(acks), *medians)


def measure(members: int, rounds: int) -> Rounds:
    """One size, with an etcd of its own."""
    job = load_job(EXAMPLE, [f"spec.hybrid.replicas={members}", f"spec.rollout.prompts={members}"])
    share = -(-members // (os.cpu_count() or 1))
    with serve_etcd() as endpoint:
        asyncio.run(_wait_for_etcd(endpoint))
        command = [sys.executable, "-m", "bench.coordination_members", endpoint, JOB_UID]
        workers = [
            subprocess.Popen([*command, str(first), str(min(first + share, members))])
            for first in range(0, members, share)
        ]
        try:
            return asyncio.run(drive(endpoint, job, rounds))
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


async def _wait_for_etcd(endpoint: str) -> None:
    async with Store(endpoint) as store:
        await store.wait_until_reachable(30)


def build_section(results: list[Rounds]) -> str:
    """The page's section."""
    rows = "\n".join(
        f"| {each.members} | {1e3 * each.heard:.0f} ms | {1e3 * each.answered:.0f} ms | "
        f"{1e3 * each.processor:.0f} ms | {1e6 * each.processor / each.members:.0f} us |"
        for each in results
    )
    return f"""`python -m bench.coordination`. {describe_machine()}

A phase written under the master's fencing token, seen by all members through watches of their own, and acknowledged;
medians. Members are simulated by tasks in {os.cpu_count()} processes on the same cores as etcd and the master.

| members | the last sees the phase | all acknowledgements are back | master's processor time | of it for each member |
| --- | --- | --- | --- | --- |
{rows}
"""


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()
    section = build_section([measure(members, options.rounds) for members in options.members])
    print(section)
    if not options.no_write:
        write_section("coordination", section)


if __name__ == "__main__":
    main()
