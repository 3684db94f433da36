"""The code sandbox against plain processes and other ways to contain them, in one run.

    tools/crun/build FOLDER
    .venv/bin/python -m bench.sandbox [--crun FOLDER] [--requests 10000] [--no-write]

As root; tools/set-up-sandbox --all installs what it is compared with. With --crun the sandbox is measured with that one
too, and all that follows the table with that one only. A start is /bin/true, from being asked for to its result: others
are asked for by this process, the sandbox by HTTP. What the others leave out (files of their own, limits, results) they
are not charged for.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.judging import Case, JudgeRequest, TokensChecker
from tandem_core.sandbox.messages import Limits, RunRequest, Source, Verdict

from bench.page import describe_machine, write_section
from bench.sandbox_service import MeasuredService

AT_A_TIME = 8
ROUNDS = 40
CASES = 50
PROGRAMS = {
    "C++": Source(
        language="cpp",
        code="#include <iostream>\nint main() { long n, s = 0; std::cin >> n;"
        " for (long i = 1; i <= n; i++) s += i; std::cout << s; }",
    ),
    "Python": Source(language="python", code="n = int(input())\nprint(sum(range(1, n + 1)))"),
}
TRUE = RunRequest(command=("/bin/true",), limits=Limits(cpu_seconds=5))


@dataclass(frozen=True)
class Starts:
    """How quickly something starts, runs /bin/true and ends."""

    name: str
    p50_ms: float
    p99_ms: float
    per_second: float


def main() -> None:
    """Measure and write the section `sandbox`."""
    parser = argparse.ArgumentParser(description="The code sandbox against others.")
    parser.add_argument("--requests", type=int, default=10_000, help="of the endurance run")
    parser.add_argument("--crun", type=Path, help="folder that tools/crun/build has put a crun into")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        report = asyncio.run(measure(Path(folder), given.requests, given.crun))
    print(report)
    if not given.no_write:
        write_section("sandbox", report)


async def measure(folder: Path, requests: int, crun: Path | None) -> str:
    """The section."""
    starts = [await asyncio.to_thread(time_commands, name, make) for name, make in build_contenders(folder).items()]
    if crun is not None:
        service = MeasuredService(folder / "home")
        async with service, SandboxClient(service.url, service.token) as client:
            starts.append(await time_service(client, "Tandem's sandbox, Debian's crun"))
    service = MeasuredService(folder / "home", crun)
    async with service, SandboxClient(service.url, service.token) as client:
        starts.append(await time_service(client, f"Tandem's sandbox{', crun of tools/crun/build' if crun else ''}"))
        judged = {name: await time_judging(client, source) for name, source in PROGRAMS.items()}
        await service.wait_idle()
        idle_bytes = service.idle_container_bytes()
        before = service.observe_traces()
        lost, seconds = await endure(client, requests)
        await service.wait_idle()
        after = service.observe_traces()
    return render(starts, judged, idle_bytes, requests, lost, seconds, before == after, before, after)


def build_contenders(folder: Path) -> dict[str, Callable[[], Sequence[str]]]:
    """Commands that run /bin/true, by name; only of what is installed."""
    found: dict[str, Callable[[], Sequence[str]]] = {"fork and exec": lambda: ["/bin/true"]}
    if shutil.which("bwrap"):
        binds = ["--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"]
        binds += ["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--unshare-all"]
        found["bubblewrap"] = lambda: ["bwrap", *binds, "/bin/true"]
    numbers = count()
    if shutil.which("runc"):
        bundle = folder / "runc"
        write_plain_bundle(bundle)
        found["runc"] = lambda: ["runc", "run", "--bundle", str(bundle), f"tandem-bench-{next(numbers)}"]
        if shutil.which("podman"):
            # Its own limits on open files and processes are more than a container that this machine may be has.
            podman = ["podman", "--root", str(folder / "podman"), "--runroot", str(folder / "podman-run")]
            podman += ["--runtime=runc", "run", "--rm", "--network=none", "--volume=/usr:/usr:ro"]
            podman += ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--rootfs", str(bundle / "rootfs")]
            found["podman, with runc"] = lambda: [*podman, "/bin/true"]
    return found


def write_plain_bundle(bundle: Path) -> None:
    """runc's own example of a bundle with /usr of this machine, that runs /bin/true."""
    root = bundle / "rootfs"
    (root / "usr").mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    specification = json.loads((bundle / "config.json").read_text())
    specification["process"] |= {"terminal": False, "args": ["/bin/true"]}
    for name in ("proc", "dev", "sys"):
        (root / name).mkdir()
    specification["mounts"].append({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["bind", "ro"]})
    (bundle / "config.json").write_text(json.dumps(specification))


def time_commands(name: str, make: Callable[[], Sequence[str]]) -> Starts:
    """One after the other for latency, as many as processors at a time for the rate."""

    def run(_: int = 0) -> float:
        started = time.perf_counter()
        subprocess.run(make(), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    for _ in range(5):
        run()
    latencies = [run() for _ in range(ROUNDS * 5)]
    with ThreadPoolExecutor(2) as threads:
        started = time.perf_counter()
        list(threads.map(run, range(ROUNDS * 5)))
        rate = ROUNDS * 5 / (time.perf_counter() - started)
    return summarize(name, latencies, rate)


async def time_service(client: SandboxClient, name: str) -> Starts:
    """The same through the service."""

    async def run() -> float:
        started = time.perf_counter()
        result = await client.run(TRUE)
        assert result.verdict == Verdict.OK, result
        return time.perf_counter() - started

    for _ in range(20):
        await run()
    latencies = []
    for _ in range(ROUNDS * 5):
        latencies.append(await run())
        await asyncio.sleep(0.02)  # the next container is made ahead, as it is when requests do not come at once
    _, seconds = await endure(client, ROUNDS * 20)
    return summarize(name, latencies, ROUNDS * 20 / seconds)


async def endure(client: SandboxClient, requests: int) -> tuple[int, float]:
    """So many requests, some at a time; returns how many had no right answer, and the seconds."""
    slots = asyncio.Semaphore(AT_A_TIME)

    async def run(number: int) -> bool:
        async with slots:
            request = RunRequest(command=("/bin/echo", str(number)))
            return (await client.run(request)).stdout == f"{number}\n"

    started = time.perf_counter()
    right = await asyncio.gather(*(run(number) for number in range(requests)))
    return right.count(False), time.perf_counter() - started


async def time_judging(client: SandboxClient, source: Source) -> float:
    """Cases a second, compiling apart."""
    cases = tuple(Case(stdin=f"{n}\n", expected=str(n * (n + 1) // 2)) for n in range(1, CASES + 1))
    request = JudgeRequest(programs=(source,), cases=cases, checker=TokensChecker())
    await client.judge(request)
    started = time.perf_counter()
    for _ in range(4):
        (result,) = (await client.judge(request)).programs
        assert result.verdict == Verdict.OK, result
    return 4 * CASES / (time.perf_counter() - started)


def summarize(name: str, latencies: Sequence[float], rate: float) -> Starts:
    """In milliseconds."""
    ordered = sorted(latencies)
    return Starts(name, statistics.median(ordered) * 1e3, ordered[int(len(ordered) * 0.99)] * 1e3, rate)


def render(
    starts: Sequence[Starts],
    judged: dict[str, float],
    idle_bytes: int,
    requests: int,
    lost: int,
    seconds: float,
    clean: bool,
    before: object,
    after: object,
) -> str:
    """Markdown."""
    plain = starts[0]
    lines = [
        "`python -m bench.sandbox --crun FOLDER`. A start is `/bin/true`, from being asked for to its result. "
        f"{describe_machine()}",
        "",
        "| | start p50 | p99 | against fork and exec | a second | against fork and exec |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each.name} | {each.p50_ms:.1f} ms | {each.p99_ms:.1f} ms | {each.p50_ms / plain.p50_ms:.1f} | "
        f"{each.per_second:.0f} | {each.per_second / plain.per_second:.2f} |"
        for each in starts
    ]
    words = ", ".join(f"{rate:.0f} in {name}" for name, rate in judged.items())
    traces = "none left" if clean else f"LEFT: {before} became {after}"
    lines += [
        "",
        "All that follows is of the last one. Judged cases a second, each in a container of its own: "
        f"{words}. A container that waits takes {idle_bytes / 2**20:.1f} MiB.",
        "",
        f"Endurance: {requests} requests, {AT_A_TIME} at a time, in {seconds:.0f} s "
        f"({requests / seconds:.0f} a second): {lost} lost; mounts, control groups, processes: {traces}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
