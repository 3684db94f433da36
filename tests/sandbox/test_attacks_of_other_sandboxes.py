"""What other sandboxes are tested with, and what was found in them, tried on ours: the second half of the list.

docs/sandbox.md lists them, and those that do not apply. The programs are our own.
"""

import asyncio
from pathlib import Path

import pytest
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.judging import Case, JudgeRequest, TokensChecker
from tandem_core.sandbox.messages import File, Limits, RunRequest, Source, Verdict

from . import test_attacks
from .conftest import RunningSandbox
from .test_attacks import QUICK, c, python, said
from .test_attacks_of_other_judges import HEADERS, said_by_c, x86

attacked = test_attacks.attacked

# epicbox: tests/test_sandboxes.py


@pytest.mark.long
async def test_epicbox_run_cpu_timeout_counts_time_in_the_kernel(attacked: SandboxClient) -> None:
    result = await attacked.run(RunRequest(command=("sh", "-c", "cat /dev/urandom > /dev/null"), limits=QUICK))
    assert result.verdict == Verdict.TLE, result
    assert result.cpu_seconds <= 1.05


@pytest.mark.long
async def test_epicbox_run_memory_limit(attacked: SandboxClient) -> None:
    assert (await attacked.run(python("[1] * 10 ** 8"))).verdict == Verdict.MLE


async def test_epicbox_fork_exceed_processes_limit(attacked: SandboxClient) -> None:
    code = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1 & done\nwait\necho on"
    few = QUICK.model_copy(update={"processes": 4})
    result = await attacked.run(RunRequest(source=Source(language="bash", code=code), limits=few))
    assert "Resource temporarily unavailable" in result.stderr, result
    assert result.verdict in (Verdict.OK, Verdict.RE)


async def test_epicbox_run_network_disabled(attacked: SandboxClient) -> None:
    code = """
import socket
try: print(socket.getaddrinfo("example.com", 443))
except OSError: print("no name")
try: socket.create_connection(("93.184.216.34", 443), 1); print("connected")
except OSError: print("no route")
"""
    assert await said(attacked, code) == "no name\nno route"


# piston: tests/


async def test_piston_fallocate(attacked: SandboxClient) -> None:
    code = """
import os
fd = os.open("/work/x", os.O_RDWR | os.O_CREAT)
try: os.posix_fallocate(fd, 0, 1 << 36); print("got it")
except OSError as error: print(error.errno)
"""
    assert await said(attacked, code) == "28"


async def test_piston_file_persistance(attacked: SandboxClient) -> None:
    code = """
import os
folders = []
for folder, inner, _ in os.walk("/"):
    if folder == "/": inner[:] = set(inner) - {"proc", "sys", "usr"}
    if os.access(folder, os.W_OK): folders.append(folder)
print(sorted(folders))
for folder in folders:
    if os.path.exists(f"{folder}/bean"): print(folder, "has it")
    open(f"{folder}/bean", "w").write("bean")
"""
    for _ in range(6):
        assert await said(attacked, code) == "['/dev/shm', '/tmp', '/work']"


@pytest.mark.long
async def test_piston_fork_that_ignores_errors(attacked: SandboxClient) -> None:
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert (await attacked.run(python(code))).verdict == Verdict.TLE


async def test_piston_multi_request(attacked: SandboxClient) -> None:
    codes = [f"open('same', 'w').write('{n}'); print(open('same').read())" for n in range(20)]
    results = await asyncio.gather(*(attacked.run(python(code)) for code in codes))
    assert [each.stdout.strip() for each in results] == [str(n) for n in range(20)]


@pytest.mark.long
async def test_piston_runaway_output(attacked: SandboxClient) -> None:
    result = await attacked.run(python("while True: print('piston')"))
    assert result.verdict == Verdict.OLE, result


# SandboxFusion: sandbox/tests/

SERVER = """
import http.server, threading, time, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b"%s")
    def log_message(self, *_): pass
server = http.server.HTTPServer(("", 34567), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
time.sleep(0.2)
print(urllib.request.urlopen("http://%s:34567").read().decode())
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_sandboxfusion_isolation_network_server(attacked: SandboxClient, host: str) -> None:
    assert await said(attacked, SERVER % ("own", host)) == "own"


async def test_sandboxfusion_isolation_network_server_port_conflict(attacked: SandboxClient) -> None:
    codes = [SERVER % (name, "127.0.0.1") for name in ("one", "two")]
    assert await asyncio.gather(*(said(attacked, code) for code in codes)) == ["one", "two"]


async def test_sandboxfusion_python_fetch_files_outside_the_working_folder(attacked: SandboxClient) -> None:
    with pytest.raises(ValueError, match="below the working folder"):
        python("", outputs=("/etc/passwd",))


@pytest.mark.parametrize("code", ["exit(0)", "import os; os._exit(0)", "import sys; sys.exit(0)", "print('OK')"])
async def test_sandboxfusion_antihack_to_end_early_is_not_to_pass(attacked: SandboxClient, code: str) -> None:
    request = JudgeRequest(
        programs=(Source(language="python", code=code),), cases=(Case(expected="42"),), checker=TokensChecker()
    )
    assert (await attacked.judge(request)).programs[0].verdict == Verdict.WA


# judge0: its security advisories


async def test_judge0_cve_2024_28185_and_28189_links_do_not_lead_the_service_outside(
    attacked: SandboxClient, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    before = victim.stat()
    code = f"""
import os, shutil
for name in os.listdir("/work"): os.remove(f"/work/{{name}}")
for name in ("main.py", "main", "stdout", "stderr", "run", "out"): os.symlink({str(victim)!r}, f"/work/{{name}}")
os.symlink({str(tmp_path)!r}, "/work/folder")
for path in ("/tmp/x", "/dev/shm/x"): os.symlink({str(victim)!r}, path)
print("done")
"""
    result = await attacked.run(python(code, outputs=("main.py", "out", "folder/victim", "**")))
    assert (result.verdict, result.stdout, result.files) == (Verdict.OK, "done\n", {}), result
    after = victim.stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns, victim.read_text()) == (
        before.st_uid,
        before.st_mode,
        before.st_mtime_ns,
        "untouched",
    )


async def test_judge0_cve_2024_28185_files_of_a_request_do_not_replace_the_programs_own(
    attacked: SandboxClient,
) -> None:
    request = python("print('mine')", files={"main.py": File(text="print('replaced')"), "run": File(text="rm -rf /")})
    assert (await attacked.run(request)).stdout == "mine\n"


async def test_judge0_cve_2024_29021_services_of_the_machine_cannot_be_asked(
    attacked: SandboxClient, sandbox: RunningSandbox
) -> None:
    code = f"""
import os, socket
for family, address in ((socket.AF_INET, ("127.0.0.1", {sandbox.port})), (socket.AF_INET6, ("::1", {sandbox.port})),
                        (socket.AF_UNIX, "/run/docker.sock"), (socket.AF_UNIX, "/var/run/docker.sock")):
    s = socket.socket(family); s.settimeout(1)
    try: s.connect(address); print("connected", address)
    except OSError: pass
print([name for name in os.environ if "TOKEN" in name or "DATABASE" in name])
"""
    assert await said(attacked, code) == "[]"


# nsjail: Makefile and tests/


async def test_nsjail_seccomp_cfg_strace_cannot_trace(attacked: SandboxClient) -> None:
    body = """
int child = fork(); if (!child) { pause(); _exit(0); }
printf("%ld %ld", ptrace(PTRACE_SEIZE, child, 0, 0), ptrace(PTRACE_ATTACH, child, 0, 0)); kill(child, SIGKILL);
"""
    assert await said_by_c(attacked, body) == "-1 -1"


async def test_nsjail_pasta_nat_without_a_network_there_is_nobody_to_ping(attacked: SandboxClient) -> None:
    code = """
import socket
echo = bytes((8, 0, 0xF7, 0xFF, 0, 0, 0, 0))
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
    try: socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).sendto(echo, ("8.8.8.8", 0)); print("sent")
    except OSError: pass
print("end")
"""
    assert await said(attacked, code) == "end"


# isolate: the man page's system call restrictions, and NEWS


async def test_isolate_syscall_flag_1_keyrings_carry_nothing_to_the_next_run(attacked: SandboxClient) -> None:
    body = 'printf("%ld %ld", syscall(SYS_add_key, "user", "a", "b", 1, -4), syscall(SYS_keyctl, 1, "box"));'
    assert await said_by_c(attacked, body) == "-1 -1"


async def test_isolate_syscall_flag_2_virtual_machine_sockets(attacked: SandboxClient) -> None:
    code = "import socket\ntry: socket.socket(40, socket.SOCK_STREAM); print('made')\nexcept OSError: print('no')"
    assert await said(attacked, code) == "no"


HOLD = """
import fcntl, os, time
fd = os.open("{path}", os.O_RDONLY)
{lock}
print("held")
time.sleep({seconds})
"""
LOCKS = {
    "flock": "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "F_OFD_SETLK": "import struct; fcntl.fcntl(fd, 37, struct.pack('hhlli', fcntl.F_RDLCK, 0, 0, 0, 0))",
}


@pytest.mark.parametrize("path", ["/usr/bin/python3", "/etc/passwd", "/proc/self/ns/uts"])
async def test_isolate_syscall_flag_4_file_locks_reach_no_other_run(attacked: SandboxClient, path: str) -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=10)
    first = asyncio.create_task(attacked.run(python(HOLD.format(path=path, lock=LOCKS["flock"], seconds=0.5), limits)))
    await asyncio.sleep(0.25)
    second = await attacked.run(python(HOLD.format(path=path, lock=LOCKS["flock"], seconds=0), limits))
    assert (second.verdict, (await first).verdict) == (Verdict.OK, Verdict.OK), second


@pytest.mark.usefixtures("control_groups")
@pytest.mark.parametrize("path", ["/dev/null", "/dev/urandom", "/proc/keys"])
async def test_isolate_syscall_flag_4_locks_on_devices_reach_no_other_run(attacked: SandboxClient, path: str) -> None:
    await test_isolate_syscall_flag_4_file_locks_reach_no_other_run(attacked, path)


async def test_isolate_syscall_flag_4_nobody_is_watched_through_shared_files(attacked: SandboxClient) -> None:
    watch = """
import ctypes, os, select
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(os.O_NONBLOCK)
watched = [libc.inotify_add_watch(fd, path, 0x20) for path in (b"/usr/bin/bash", b"/usr/bin", b"/usr/bin/python3")]
print("event" if fd >= 0 and select.select([fd], [], [], 0.6)[0] else "nothing")
"""
    limits = Limits(cpu_seconds=1, wall_seconds=10)
    first = asyncio.create_task(attacked.run(python(watch, limits)))
    await asyncio.sleep(0.3)
    await attacked.run(RunRequest(source=Source(language="bash", code="cat /usr/bin/bash > /dev/null")))
    assert (await first).stdout == "nothing\n"


async def test_isolate_syscall_flag_8_io_uring(attacked: SandboxClient) -> None:
    body = 'char p[256] = {0}; printf("%ld %ld", syscall(SYS_io_uring_setup, 8, p), syscall(426, 0, 1, 0, 0, 0, 0));'
    assert await said_by_c(attacked, body) == "-1 -1"


@x86
async def test_isolate_syscall_flag_16_legacy_architectures(attacked: SandboxClient) -> None:
    x32 = 'long id = syscall(0x40000000 + 39); printf("%ld", id);'
    result = await attacked.run(c(f"{HEADERS}\nint main(void) {{ {x32} }}"))
    assert result.verdict == Verdict.RE or result.stdout == "-1", result


async def test_isolate_2_6_shared_memory_is_not_shared(attacked: SandboxClient) -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=10)
    write = "import time\nopen('/dev/shm/channel', 'w').write('x')\ntime.sleep(0.5)\nprint('wrote')"
    first = asyncio.create_task(attacked.run(python(write, limits)))
    await asyncio.sleep(0.25)
    assert await said(attacked, "import os\nprint(os.listdir('/dev/shm'))") == "[]"
    assert (await first).stdout == "wrote\n"
