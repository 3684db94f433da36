"""Hostile programs: each gets a verdict, leaves the machine clean, and the next program's result is right."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.judging import Case, JudgeRequest, TokensChecker
from tandem_core.sandbox.messages import MEBIBYTE, Limits, RunRequest, RunResult, Source, Verdict

from .conftest import BOTH_KINDS, RunningSandbox, wait_until

pytestmark = BOTH_KINDS
QUICK = Limits(cpu_seconds=1, memory_bytes=64 * MEBIBYTE, processes=32, disk_bytes=16 * MEBIBYTE, output_bytes=MEBIBYTE)


def _mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest_asyncio.fixture
async def attacked(client: SandboxClient, sandbox: RunningSandbox) -> AsyncIterator[SandboxClient]:
    """The client; after the test nothing of the attack may be left, and programs are judged as ever."""
    mounts, groups = _mounts(), sorted(sandbox.control_groups())
    yield client
    wait_until(lambda: not sandbox.program_processes(), "all processes of the attack are gone")
    assert _mounts() == mounts
    assert sorted(sandbox.control_groups()) == groups
    results = await asyncio.gather(*(client.run(python("print(open('/work/main.py').read()[:5])")) for _ in range(4)))
    assert [(each.verdict, each.stdout) for each in results] == [(Verdict.OK, "print\n")] * 4


def python(code: str, limits: Limits = QUICK, **more: object) -> RunRequest:
    return RunRequest.model_validate({"source": Source(language="python", code=code), "limits": limits, **more})


def c(code: str, limits: Limits = QUICK) -> RunRequest:
    return RunRequest(source=Source(language="c", code=code), limits=limits)


async def said(client: SandboxClient, code: str, **more: object) -> str:
    """What a well-behaved Python program prints."""
    result = await client.run(python(code, **more))
    assert result.verdict == Verdict.OK, result
    return result.stdout.strip()


async def test_a_fork_bomb_is_limited_and_ended(attacked: SandboxClient) -> None:
    result = await attacked.run(c("#include <unistd.h>\nint main(void) { for (;;) fork(); }"))
    assert result.verdict == Verdict.TLE, result


async def test_a_fork_bomb_whose_parents_end_is_ended(attacked: SandboxClient) -> None:
    code = "#include <unistd.h>\nint main(void) { for (;;) if (fork() > 0) _exit(0); else setsid(); }"
    result = await attacked.run(c(code))
    assert result.verdict in (Verdict.OK, Verdict.TLE), result


async def test_a_memory_bomb_is_ended(attacked: SandboxClient, sandbox: RunningSandbox) -> None:
    result = await attacked.run(python("x = [bytearray(1 << 20) for _ in range(1000)]"))
    if sandbox.unprivileged:  # it is seen at a look, or gets no more than twice its memory
        assert result.verdict == Verdict.MLE or "MemoryError" in result.stderr, result
        assert result.memory_bytes <= 2.1 * QUICK.memory_bytes
        return
    assert result.verdict == Verdict.MLE, result
    assert result.memory_bytes <= 1.05 * QUICK.memory_bytes


async def test_many_processes_together_have_one_memory_limit(attacked: SandboxClient) -> None:
    code = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(16 << 20); x[::4096] = b"1" * len(x[::4096]); time.sleep(0.5); os._exit(0)
for _ in range(8): os.wait()
"""
    result = await attacked.run(python(code))
    assert result.verdict == Verdict.MLE, result


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/work"])
async def test_filling_files_in_memory_hits_the_disk_limit(attacked: SandboxClient, folder: str) -> None:
    code = f"""
import os
fd = os.open("{folder}/x", os.O_WRONLY | os.O_CREAT)
try:
    for _ in range(1000): os.write(fd, b"x" * (1 << 20))
except OSError as error: print(error.errno, os.fstat(fd).st_size >> 20 <= 16)
"""
    assert await said(attacked, code) == "28 True"


@pytest.mark.usefixtures("control_groups")
async def test_files_in_memory_count_as_memory(attacked: SandboxClient) -> None:
    code = "f = open('/tmp/x', 'wb')\nfor _ in range(1000): f.write(b'x' * (1 << 20))"
    result = await attacked.run(python(code, QUICK.model_copy(update={"disk_bytes": 512 * MEBIBYTE})))
    assert result.verdict == Verdict.MLE, result


async def test_page_cache_is_no_way_around_the_memory_limit(attacked: SandboxClient) -> None:
    code = """
import os
total = 0
for folder, _, names in os.walk("/usr/lib"):
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path) and total < 160 << 20:
            total += len(open(path, "rb").read(1 << 22))
print(total > 96 << 20)
"""
    result = await attacked.run(python(code, QUICK.model_copy(update={"cpu_seconds": 20})))
    assert (result.verdict, result.stdout) == (Verdict.OK, "True\n"), result
    assert result.memory_bytes <= 1.05 * QUICK.memory_bytes


async def test_a_million_files_hit_the_limit_of_files(attacked: SandboxClient) -> None:
    code = """
import os
try:
    for n in range(1_000_000): open(f"/tmp/{n}", "w").close()
except OSError as error: print(error.errno, n < 5000)
"""
    assert await said(attacked, code) == "28 True"


async def test_an_output_flood_is_cut(attacked: SandboxClient) -> None:
    for stream in ("stdout", "stderr"):
        result = await attacked.run(python(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)"))
        assert result.verdict == Verdict.OLE, result
        assert len(result.stdout) + len(result.stderr) == QUICK.output_bytes


async def test_an_endless_loop_that_ignores_signals_is_ended_at_its_processor_time(attacked: SandboxClient) -> None:
    code = """
import signal
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""
    result = await attacked.run(python(code))
    assert result.verdict == Verdict.TLE, result
    assert 1.0 <= result.cpu_seconds <= 1.05


async def test_a_program_that_waits_for_ever_is_ended(attacked: SandboxClient) -> None:
    result = await attacked.run(python("import time\ntime.sleep(1e6)", Limits(cpu_seconds=0.1)))
    assert result.verdict == Verdict.TLE, result
    assert result.cpu_seconds < 0.1


async def test_a_stopped_program_is_ended(attacked: SandboxClient) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"
    result = await attacked.run(python(code, Limits(cpu_seconds=1, wall_seconds=1)))
    assert result.verdict == Verdict.TLE, result


async def test_orphan_daemons_do_not_outlive_the_program(attacked: SandboxClient) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        time.sleep(1000)
    os._exit(0)
print("done")
"""
    started = time.monotonic()
    assert await said(attacked, code) == "done"
    assert time.monotonic() - started < 500


async def test_files_of_the_host_cannot_be_seen(attacked: SandboxClient, sandbox: RunningSandbox) -> None:
    secrets = [str(sandbox.home / "given-token"), "/etc/shadow", "/root", "/home", f"/proc/1/{'root'}/etc/shadow"]
    secrets += ["/proc/self/root/../etc/shadow", "/usr/../../../etc/shadow", "/run", "/var/lib", "/sys/kernel"]
    code = f"""
import os
for path in {secrets!r}:
    try: print(path, open(path).read() if not os.path.isdir(path) else os.listdir(path))
    except OSError: pass
print(sorted(os.listdir("/")), os.listdir("/sys"), os.listdir("/usr/local"))
"""
    root = (
        "['.tandem', 'bin', 'dev', 'empty', 'etc', 'lib', 'lib64', 'proc', 'sbin', 'sys', 'tmp', 'usr', 'var', 'work']"
    )
    assert (await said(attacked, code)).replace("'lib32', ", "") == f"{root} [] []"


async def test_the_root_file_system_of_the_image_cannot_be_changed_for_others(attacked: SandboxClient) -> None:
    code = """
import os
for path in ("/usr/bin/evil", "/bin/sh", "/etc/passwd", "/.tandem/stdin", "/evil", "/usr/lib/evil"):
    try: open(path, "a").write("x"); print("wrote", path)
    except OSError: pass
for path in ("/usr/bin/python3", "/usr", "/etc"):
    try: os.rename(path, "/tmp/x"); print("moved", path)
    except OSError: pass
print("end")
"""
    assert await said(attacked, code) == "end"


async def test_proc_gives_no_way_out(attacked: SandboxClient) -> None:
    code = """
import os
open_for_writing = ["sys/kernel/core_pattern", "sys/kernel/hostname", "sysrq-trigger", "sys/vm/drop_caches",
    "sys/fs/binfmt_misc/register", "self/oom_score_adj_", "sys/kernel/modprobe", "irq/0/smp_affinity", "1/mem_"]
for path in open_for_writing:
    try: open("/proc/" + path, "w"); print("open", path)
    except OSError: pass
for path in ("kcore", "keys", "timer_list", "kmsg", "latency_stats", "sched_debug", "interrupts"):
    try:
        if open("/proc/" + path, "rb").read(1): print("read", path)
    except OSError: pass
try: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"); print("oom")
except OSError: pass
processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
print(min(processes), len(processes))
"""
    assert await said(attacked, code) == "1 2"


SYSTEM_CALLS = Path(__file__).with_name("system_calls.c").read_text()


async def test_dangerous_system_calls_fail(attacked: SandboxClient) -> None:
    result = await attacked.run(c(SYSTEM_CALLS))
    assert (result.verdict, result.stdout) == (Verdict.OK, "end\n"), result


async def test_there_are_no_capabilities_and_no_ways_to_gain_any(attacked: SandboxClient) -> None:
    code = """
lines = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
print({lines["Cap" + kind] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}, lines["NoNewPrivs"], lines["Seccomp"])
"""
    assert await said(attacked, code) == "{'0000000000000000'} 1 2"


async def test_the_network_and_loopback_of_the_host_cannot_be_reached(
    attacked: SandboxClient, sandbox: RunningSandbox
) -> None:
    code = f"""
import socket
for address in (("127.0.0.1", {sandbox.port}), ("8.8.8.8", 53), ("10.0.0.1", 22)):
    s = socket.socket(); s.settimeout(1)
    try: s.connect(address); print("connected", address)
    except OSError: pass
print(open("/proc/net/dev").read().count(":"))
"""
    assert await said(attacked, code) == "1"


async def test_abstract_sockets_are_not_shared(attacked: SandboxClient) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0tandem-sandbox-test")
        listener.listen()
        code = """
import socket
s = socket.socket(socket.AF_UNIX)
try: s.connect("\\0tandem-sandbox-test"); print("connected")
except OSError as error: print(type(error).__name__)
"""
        assert await said(attacked, code) == "ConnectionRefusedError"


async def test_shared_memory_and_queues_of_the_host_are_not_shared(attacked: SandboxClient) -> None:
    assert await said(attacked, "print(len(open('/proc/sysvipc/shm').readlines()))") == "1"


async def test_a_compiler_that_does_not_end_is_ended(attacked: SandboxClient) -> None:
    bomb = '#include "/dev/zero"\nint main(void) {}'
    result = await attacked.run(RunRequest(source=Source(language="c", code=bomb)))
    assert result.verdict == Verdict.CE, result


async def test_a_huge_result_of_a_compiler_is_a_compile_error(attacked: SandboxClient) -> None:
    result = await attacked.run(c("char x[1 << 30] = {1}; int main(void) { return x[5]; }"))
    assert result.verdict in (Verdict.CE, Verdict.IE), result


async def test_a_compiler_cannot_read_files_of_the_host(attacked: SandboxClient, sandbox: RunningSandbox) -> None:
    result = await attacked.run(c(f'#include "{sandbox.home}/given-token"\nint main(void) {{}}'))
    assert result.verdict == Verdict.CE
    assert "a token" not in result.stderr


async def test_links_pipes_and_devices_in_returned_files_are_not_followed(attacked: SandboxClient) -> None:
    code = """
import os
os.symlink("/etc/shadow", "link"); os.symlink("/", "root"); os.symlink("..", "up")
os.mkfifo("pipe"); os.mkdir("folder")
os.symlink("/etc", "folder/inner"); open("folder/good", "w").write("good"); os.link("folder/good", "hard")
open("big", "wb").truncate(1 << 40)
"""
    bad = ("link", "root/etc/shadow", "up/etc/shadow", "pipe", "folder/inner/shadow", "big", "none")
    result = await attacked.run(python(code, outputs=("folder/good", "hard", *bad)))
    assert {path: file.data for path, file in result.files.items()} == {"folder/good": b"good", "hard": b"good"}
    assert result.left_out == bad
    everything = await attacked.run(python(code, outputs=("**",)))
    assert set(everything.files) == {"folder/good", "hard", "main.py"}


async def test_a_run_sees_nothing_of_another(attacked: SandboxClient) -> None:
    write = "for d in ('/tmp/', '/work/', '/dev/shm/'): open(d + 'left-behind', 'w').write('secret')"
    look = "import os\nprint([d for d in ('/tmp', '/work', '/dev/shm') if 'left-behind' in os.listdir(d)])"
    for _ in range(6):
        assert await said(attacked, write) == ""
        assert await said(attacked, look) == "[]"


async def test_expected_answers_never_enter_the_container(attacked: SandboxClient) -> None:
    code = """
import os
for folder, _, names in os.walk("/"):
    if folder.startswith(("/usr", "/etc", "/proc/sys")): continue
    for name in names:
        try: text = os.read(os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK), 1 << 20)
        except OSError: continue
        if b"-answer-" + b"42" in text: print("-answer-" + "42")
"""
    request = JudgeRequest(
        programs=(Source(language="python", code=code),), cases=(Case(expected="-answer-42"),) * 3,
        checker=TokensChecker(), limits=Limits(cpu_seconds=20),
    )  # fmt: skip
    result = await attacked.judge(request)
    assert [case.verdict for case in result.programs[0].cases] == [Verdict.WA] * 3


async def test_a_program_that_kills_all_it_can_harms_only_itself(attacked: SandboxClient) -> None:
    result = await attacked.run(python("import os\nos.kill(-1, 9)\nos.kill(1, 9)\nprint('alive')"))
    assert result.verdict in (Verdict.OK, Verdict.RE), result


async def test_core_files_and_priorities_are_not_for_programs(attacked: SandboxClient) -> None:
    code = """
import os, resource
print(resource.getrlimit(resource.RLIMIT_CORE))
for call in (lambda: os.nice(-5), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))):
    try: call(); print("allowed")
    except OSError: pass
"""
    assert await said(attacked, code) == "(1, 1)"


async def test_many_runs_leave_no_control_group_and_no_mount(attacked: SandboxClient, sandbox: RunningSandbox) -> None:
    before = _mounts_of(sandbox)
    results: list[RunResult] = await asyncio.gather(
        *(attacked.run(RunRequest(command=("/bin/echo", str(number)))) for number in range(100))
    )
    assert [each.stdout for each in results] == [f"{number}\n" for number in range(100)]
    await asyncio.to_thread(wait_until, lambda: _mounts_of(sandbox) <= before, "no more mounts than before")


def _mounts_of(sandbox: RunningSandbox) -> int:
    """Mounts in all namespaces of the service: each lane's thread has one."""
    assert sandbox.process is not None
    process = sandbox.process.pid
    for _ in ("the first one of its process namespace", "the service"):
        process = int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])
    threads = list(Path(f"/proc/{process}/task").iterdir())
    namespaces = {(thread / "ns" / "mnt").readlink(): thread for thread in threads}
    assert len(namespaces) > 1
    return sum(len((thread / "mountinfo").read_text().splitlines()) for thread in namespaces.values())
