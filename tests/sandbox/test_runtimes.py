"""Other programs that make containers: the same verdicts, and nothing stays."""

import shutil
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.messages import MEBIBYTE, File, Limits, RunRequest, Source, Verdict

from .conftest import RUNC_CAPABILITIES, TOKEN, RunningSandbox, wait_until

pytestmark = pytest.mark.long
LIMITS = Limits(cpu_seconds=1, memory_bytes=128 * MEBIBYTE, processes=32, output_bytes=MEBIBYTE)
PROGRAMS = {
    "print(open('in.txt').read() + input())": {Verdict.OK},
    "while True: pass": {Verdict.TLE},
    # gVisor counts no processes, but their memory.
    "import os\nwhile True: os.fork()": {Verdict.RE, Verdict.MLE},
    "x = [bytearray(b'1' * (1 << 20)) for _ in range(1000)]": {Verdict.MLE},
    "while True: print('x' * 65536)": {Verdict.OLE},
    "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)": {Verdict.RE},
    "open('/etc/shadow')": {Verdict.RE},
}


@pytest_asyncio.fixture(params=["runc", "runsc"])
async def running(request: pytest.FixtureRequest, other_sandbox: RunningSandbox) -> AsyncIterator[RunningSandbox]:
    """A service with this runtime."""
    if shutil.which(request.param) is None:
        pytest.skip(f"LEFT OUT: {request.param} is not installed")
    other_sandbox.capabilities += RUNC_CAPABILITIES
    other_sandbox.options = (*other_sandbox.options, "--runtime", request.param)
    other_sandbox.start()
    yield other_sandbox


async def test_a_runtime_gives_the_same_verdicts(running: RunningSandbox) -> None:
    async with SandboxClient(running.url, TOKEN) as client:
        for code, expected in PROGRAMS.items():
            request = RunRequest(
                source=Source(language="python", code=code.replace("{port}", str(running.port))),
                files={"in.txt": File(text="first ")},
                stdin="second",
                limits=LIMITS,
            )
            result = await client.run(request)
            assert result.verdict in expected, (code, result)
            assert result.verdict != Verdict.OK or result.stdout == "first second\n"


async def test_it_gives_files_back(running: RunningSandbox) -> None:
    async with SandboxClient(running.url, TOKEN) as client:
        command = ("sh", "-c", "mkdir a; echo written > a/b; ln -s /etc/shadow c; cat d")
        result = await client.run(RunRequest(command=command, files={"d": File(text="given")}, outputs=("**",)))
        assert result.stdout == "given"
        assert {path: file.data for path, file in result.files.items()} == {"a/b": b"written\n", "d": b"given"}


async def test_nothing_stays_of_a_service_that_was_killed(running: RunningSandbox) -> None:
    running.stop(signal.SIGKILL)
    wait_until(lambda: not running.program_processes(), "all processes are gone")
    running.start()
    assert running.stop() == 0
    assert running.control_groups() == []
