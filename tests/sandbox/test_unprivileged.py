"""The sandbox of an ordinary user: what it says of itself, and what it holds in other ways than root's does."""

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.messages import MEBIBYTE, Holding, Limits, RunRequest, Source, Verdict

from .conftest import BOTH_KINDS, RunningSandbox, make_home
from .ordinary_user import USER, as_ordinary_user

USERS = pytest.mark.parametrize("sandbox", ["user"], indirect=True, scope="session")


def python(code: str, **limits: float) -> RunRequest:
    return RunRequest(source=Source(language="python", code=code), limits=Limits.model_validate(limits))


@BOTH_KINDS
async def test_it_says_how_it_holds_each_limit(client: SandboxClient, sandbox: RunningSandbox) -> None:
    said = (await client.languages()).limits
    assert said.keys() == Limits.model_fields.keys()
    ready = await asyncio.to_thread(httpx.get, f"{sandbox.url}/readyz")
    assert ready.json()["limits"] == said
    weaker = {name: how for name, how in said.items() if how != Holding.EXACT}
    if sandbox.unprivileged:
        assert weaker == {"cpu_seconds": "watched", "memory_bytes": "watched", "cpus": "not"}
    else:
        assert weaker == {}


@USERS
async def test_all_its_processes_are_the_users_own(client: SandboxClient, sandbox: RunningSandbox) -> None:
    assert sandbox.process is not None
    waiting, seen = [sandbox.process.pid], []
    for process in waiting:
        folder = Path(f"/proc/{process}")
        seen.append((folder / "status").read_text().partition("Uid:")[2].split()[:4])
        for thread in (folder / "task").iterdir():
            waiting += map(int, (thread / "children").read_text().split())
    assert seen == [[str(USER)] * 4] * len(seen)
    assert len(seen) > 3


@USERS
async def test_the_processes_of_one_run_are_not_counted_for_another(client: SandboxClient) -> None:
    code = """
import os, time
for _ in range({count}):
    if os.fork() == 0: time.sleep(1); os._exit(0)
print("all")
"""
    fits = [client.run(python(code.format(count=25), processes=32)) for _ in range(2)]
    assert [each.stdout for each in await asyncio.gather(*fits)] == ["all\n"] * 2
    result = await client.run(python(code.format(count=40), processes=32))
    assert (result.verdict, "BlockingIOError" in result.stderr) == (Verdict.RE, True), result


@USERS
async def test_time_of_many_processes_counts_together(client: SandboxClient) -> None:
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = await client.run(python(code, cpu_seconds=1))
    assert result.verdict == Verdict.TLE, result
    assert 1.0 <= result.cpu_seconds <= 1.5


@USERS
async def test_time_of_children_that_have_ended_counts(client: SandboxClient) -> None:
    code = "import os\nfor _ in range(20):\n  if os.fork() == 0: sum(range(4_000_000)); os._exit(0)\n  os.wait()"
    result = await client.run(python(code, cpu_seconds=20))
    assert result.verdict == Verdict.OK, result
    assert result.cpu_seconds >= 0.2


@USERS
async def test_memory_that_no_process_shows_cannot_be_had(client: SandboxClient) -> None:
    code = """
import ctypes, os
try: os.memfd_create("x"); print("memfd_create")
except OSError: pass
for name, *arguments in (("shmget", 0, 1 << 20, 0o1600), ("msgget", 0, 0o1600)):
    if getattr(ctypes.CDLL(None), name)(*arguments) >= 0: print(name)
print("end")
"""
    assert (await client.run(python(code))).stdout == "end\n"


@USERS
async def test_shared_memory_of_many_processes_counts_once(client: SandboxClient) -> None:
    code = """
import mmap, os, time
shared = mmap.mmap(-1, {size} << 20)
shared.write(b"x" * ({size} << 20))
for _ in range(6):
    if os.fork() == 0: sum(shared[::4096]); time.sleep(0.3); os._exit(0)
for _ in range(6): os.wait()
print("done")
"""
    memory = 128 * MEBIBYTE
    fits = await client.run(python(code.format(size=24), memory_bytes=memory))
    assert fits.stdout == "done\n", fits
    assert (await client.run(python(code.format(size=160), memory_bytes=memory))).verdict == Verdict.MLE


def said_at_start(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    return done.stderr


def test_who_may_not_start_it_so_is_told_how() -> None:
    with make_home(unprivileged=True) as home:
        command = [sys.executable, "-m", "tandem_sandbox", "--home", str(home)]
        assert "as root leave --unprivileged out" in said_at_start([*command, "--unprivileged"])
        (home / "token").unlink()
        assert "or with --unprivileged" in said_at_start(as_ordinary_user(command))
        runc = as_ordinary_user([*command, "--unprivileged", "--runtime", "runc"])
        assert "goes with --runtime crun only" in said_at_start(runc)


def test_where_proc_is_covered_it_says_so() -> None:
    cover = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /proc/sys && exec "$@"', "sh"]
    with make_home(unprivileged=True) as home:
        command = [sys.executable, "-m", "tandem_sandbox", "--home", str(home), "--unprivileged"]
        assert "procMount: Unmasked" in said_at_start([*cover, *as_ordinary_user(command)])
