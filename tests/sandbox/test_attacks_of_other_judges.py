"""What other judges test their sandboxes with, tried on ours. Each test is named after the judge and its test.

docs/sandbox.md lists them, and those that do not apply. The programs are our own.
"""

import platform

import pytest
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.messages import MEBIBYTE, Limits, RunRequest, Source, Verdict

from . import test_attacks
from .test_attacks import QUICK, c, python, said

attacked = test_attacks.attacked
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls of x86")

HEADERS = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>
"""


async def said_by_c(client: SandboxClient, body: str) -> str:
    """What a C program of this main function prints."""
    result = await client.run(c(f"{HEADERS}\nint main(void) {{ {body} return 0; }}"))
    assert result.verdict == Verdict.OK, result
    return result.stdout.strip()


# DMOJ judge-server: testsuite/


@pytest.mark.parametrize(
    ("name", "path", "error"),
    [
        ("sandbox_c_bad_unicode_open", r'"\xaa"', "ENOENT"),
        ("sandbox_c_format_open", '"%s%n"', "ENOENT"),
        ("sandbox_c_nametoolong", "long_name", "ENAMETOOLONG"),
        ("sandbox_c_null_path", "(char *)NULL", "EFAULT"),
    ],
)
async def test_dmoj_strange_paths_are_errors_of_the_program(
    attacked: SandboxClient, name: str, path: str, error: str
) -> None:
    body = f"""
char long_name[8192]; memset(long_name, 'a', sizeof long_name - 1); long_name[8191] = 0;
for (int i = 0; i < 8191; i += 200) long_name[i] = '/';
int file = open({path}, O_RDONLY);
printf("%d %d ", file, errno == {error});
errno = 0; file = syscall(SYS_openat, AT_FDCWD, {path}, O_RDONLY);
printf("%d %d", file, errno == {error});
"""
    assert await said_by_c(attacked, body) == "-1 1 -1 1", name


async def test_dmoj_sandbox_nasm64_kill_judge(attacked: SandboxClient) -> None:
    body = 'int parent = getppid(); int done = kill(parent, SIGXCPU); printf("%d %d", parent, done);'
    assert await said_by_c(attacked, body) == "1 0"
    assert await said_by_c(attacked, 'kill(getppid(), SIGKILL); kill(-1, SIGSTOP); printf("on");') == "on"


@x86
async def test_dmoj_sandbox_nasm_kill_judge_with_32_bit_system_calls(attacked: SandboxClient) -> None:
    body = 'long id; __asm__ volatile("int $0x80" : "=a"(id) : "a"(20) : "memory"); printf("%d", id == getpid());'
    result = await attacked.run(c(f"{HEADERS}\nint main(void) {{ {body} }}"))
    assert result.verdict in (Verdict.RE, Verdict.OK), result
    assert result.stdout != "1"


async def test_dmoj_sandbox_py3_bad_file_there_are_only_harmless_devices(attacked: SandboxClient) -> None:
    code = """
import os, stat
modes = {name: os.lstat(f"/dev/{name}").st_mode for name in os.listdir("/dev")}
names = {name for name, mode in modes.items() if stat.S_ISCHR(mode) or stat.S_ISBLK(mode)}
print(*sorted(names - {"null", "zero", "full", "random", "urandom", "tty"}))
try: os.write(os.open("/dev/full", os.O_WRONLY), b"x")
except OSError as error: print(error.errno)
"""
    assert await said(attacked, code) == "28"


async def test_dmoj_scroll_c_rte_protection_fault_and_generator_test_sandbox(attacked: SandboxClient) -> None:
    assert await said_by_c(attacked, 'printf("%ld", ptrace(PTRACE_TRACEME, 0, NULL, NULL));') == "-1"


async def test_dmoj_helloworld_cpp_badalloc(attacked: SandboxClient) -> None:
    code = """
int main() {
  volatile char *x = new char[1u << 31];
  for (unsigned i = 0; i < 1u << 31; i += 4096) x[i] = 1;
  return x[5];
}
"""
    result = await attacked.run(RunRequest(source=Source(language="cpp", code=code), limits=QUICK))
    assert result.verdict in (Verdict.MLE, Verdict.RE), result


async def test_dmoj_helloworld_c_signal_ir(attacked: SandboxClient) -> None:
    code = 'void end(int s) { puts("caught"); exit(1); }\nint main(void) { signal(SIGVTALRM, end); raise(SIGVTALRM); }'
    result = await attacked.run(c(f"{HEADERS}\n{code}"))
    assert (result.verdict, result.exit_code, result.stdout) == (Verdict.RE, 1, "caught\n"), result


@pytest.mark.long
async def test_dmoj_helloworld_cpp_ole(attacked: SandboxClient) -> None:
    result = await attacked.run(c(f"{HEADERS}\nint main(void) {{ for (;;) putchar('a'); }}"))
    assert result.verdict == Verdict.OLE, result


@pytest.mark.long
async def test_dmoj_helloworld_cpp_compiler_ole(attacked: SandboxClient) -> None:
    lines = "\n".join(f"int f{n} = ; // {'x' * 200}" for n in range(9000))
    result = await attacked.run(c(f"{lines}\nint main(void) {{ return 0; }}"))
    assert result.verdict == Verdict.CE, result
    assert "it wrote more than" in result.stderr
    assert len(result.stderr) < MEBIBYTE


# QingdaoU Judger: tests/Python_and_core/testcase/


async def test_qduoj_seccomp_execve_and_execveat_gain_no_rights(attacked: SandboxClient) -> None:
    code = """
import glob, os, stat, subprocess
found = [p for p in glob.glob("/usr/bin/*") + glob.glob("/usr/sbin/*") if os.path.isfile(p)
         and os.stat(p).st_mode & (stat.S_ISUID | stat.S_ISGID)]
for path in found:
    try: process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError: continue
    try: lines = open(f"/proc/{process.pid}/status").read().splitlines()
    except OSError: lines = []
    for line in lines:
        if line.startswith(("Uid:", "Gid:")) and set(line.split()[1:]) != {"1000"}: print(path, line)
    process.kill(); process.wait()
print("end")
"""
    assert await said(attacked, code) == "end"


async def test_qduoj_seccomp_fork_and_child_proc_cpu_time_limit(attacked: SandboxClient) -> None:
    code = "import os\nif os.fork() == 0:\n    while True: pass\nos.wait()"
    result = await attacked.run(python(code, Limits(cpu_seconds=0.3)))
    assert result.verdict == Verdict.TLE, result
    assert result.cpu_seconds < 0.4


async def test_qduoj_child_proc_real_time_limit(attacked: SandboxClient) -> None:
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(100)\nos.wait()"
    result = await attacked.run(python(code, Limits(cpu_seconds=1, wall_seconds=0.3)))
    assert result.verdict == Verdict.TLE, result


async def test_qduoj_seccomp_write_file_using_open_and_openat(attacked: SandboxClient) -> None:
    code = """
import os
folder = os.open("/usr", os.O_RDONLY)
for path, at in (("/etc/file1", None), ("/usr/file2", None), ("file3", folder), ("../file4", folder), ("/file5", None)):
    for flags in (os.O_WRONLY, os.O_RDWR):
        try: os.open(path, flags | os.O_CREAT, 0o644, dir_fd=at); print("wrote", path)
        except OSError: pass
print("end")
"""
    assert await said(attacked, code) == "end"


@pytest.mark.long
async def test_qduoj_integration_gcc_random(attacked: SandboxClient) -> None:
    result = await attacked.run(c("#include </dev/urandom>\nint main(void) { return 0; }"))
    assert result.verdict == Verdict.CE, result


@pytest.mark.long
async def test_qduoj_integration_cpp_meta(attacked: SandboxClient) -> None:
    code = """
template <int n, int tag> struct Slow {
  static const int value = Slow<n - 1, 2 * tag>::value + Slow<n - 1, 2 * tag + 1>::value;
};
template <int tag> struct Slow<0, tag> { static const int value = 1; };
int main() { return Slow<26, 1>::value; }
"""
    result = await attacked.run(RunRequest(source=Source(language="cpp", code=code)))
    assert result.verdict == Verdict.CE, result
    assert any(words in result.stderr for words in ("of memory", "of processor time")), result


async def test_qduoj_integration_memory1_and_memory3(attacked: SandboxClient) -> None:
    touch = "for (int i = 0; i < 80 << 20; i += 4096) x[i] = 1;"
    for place in ("volatile char *x = malloc(80 << 20);", "static volatile char x[80 << 20];"):
        body = f"{place} {touch}"
        result = await attacked.run(c(f"{HEADERS}\nint main(void) {{ {body} return 0; }}"))
        assert result.verdict == Verdict.MLE, result


async def test_qduoj_integration_stack_size(attacked: SandboxClient) -> None:
    body = "volatile char x[80 << 20]; for (size_t i = 0; i < sizeof x; i += 4096) x[i] = 1;"
    result = await attacked.run(c(f"{HEADERS}\nint main(void) {{ {body} return 0; }}"))
    assert result.verdict in (Verdict.RE, Verdict.MLE), result


async def test_qduoj_integration_output_size(attacked: SandboxClient) -> None:
    code = """
try:
    with open("/tmp/x", "wb") as file: file.write(b"x" * (32 << 20))
except OSError as error: print(error.errno)
"""
    assert await said(attacked, code) == "28"


async def test_qduoj_integration_uid_and_gid(attacked: SandboxClient) -> None:
    body = """
printf("%d %d %d %d\\n", getuid(), geteuid(), getgid(), getegid()); fflush(stdout); system("id -u; id -G");
"""
    assert (await said_by_c(attacked, body)).split() == ["1000"] * 4 + ["1000"] * 2


async def test_qduoj_integration_stdout_and_stderr(attacked: SandboxClient) -> None:
    result = await attacked.run(python("import sys\nsys.stderr.write('one')\nsys.stdout.write('two')"))
    assert (result.stdout, result.stderr) == ("two", "one")
