"""Sessions: cells share state, nothing else of anybody's, and each ends as it should."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
from tandem_core.sandbox.client import JupyterSession, SandboxClient, SandboxError, SandboxUnavailable, SessionOver
from tandem_core.sandbox.messages import MEBIBYTE, CellLimits, SessionLimits, Verdict
from tandem_core.sandbox.sessions import DisplayOutput, ErrorOutput, SessionRequest

from .conftest import BOTH_KINDS_LONG, TOKEN, RunningSandbox, wait_until

pytestmark = BOTH_KINDS_LONG

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
TRACES = """
import os, socket
open("/work/trace", "w"), open("/tmp/trace", "w"), open("/dev/shm/trace", "w")
listener = socket.socket(socket.AF_UNIX); listener.bind("\\0trace"); listener.listen()
secret = 1
"""
SEARCH = """
import os, socket
found = [place for place in ("/work/trace", "/tmp/trace", "/dev/shm/trace") if os.path.exists(place)]
try: socket.socket(socket.AF_UNIX).connect("\\0trace"); found.append("socket")
except OSError: pass
found += [name for name in ("secret", "listener") if name in globals()]
commands = [open(f"/proc/{pid}/cmdline", "rb").read() for pid in os.listdir("/proc") if pid.isdigit()]
kernels = [command for command in commands if b"-m\\0ipykernel" in command]
print(found, len(kernels), os.getuid())
"""


@pytest.fixture(scope="module")
def kept(sandbox: RunningSandbox) -> Iterator[str]:
    """The id of a session for all tests that leave it as it was, but for variables."""
    with httpx.Client(base_url=sandbox.url, headers=HEADERS, timeout=120) as http:
        made = http.post("/v1/sessions", json={"files": {"data/in.txt": {"base64": "/wA="}}})
        assert made.status_code == 201, made.text
        yield made.json()["id"]
        assert http.delete(f"/v1/sessions/{made.json()['id']}").status_code == 204
        assert http.get("/v1/sessions").json()["sessions"] == []
    wait_until(lambda: sandbox.program_processes() == [], "nothing of it is left", 10.0)


@pytest_asyncio.fixture
async def session(client: SandboxClient, kept: str) -> JupyterSession:
    """The kept one."""
    return JupyterSession(client, await client.session(kept))


@pytest_asyncio.fixture
async def own_session(client: SandboxClient) -> AsyncIterator[JupyterSession]:
    """One that a test may break."""
    limits = SessionLimits(memory_bytes=300 * MEBIBYTE)
    async with client.open_session(SessionRequest(limits=limits)) as opened:
        yield opened


async def until(client: SandboxClient, session: JupyterSession, *, busy: bool | None) -> None:
    """Until the session is busy, or not; None: until it is over."""
    for _ in range(1000):
        found = {each.id: each.busy for each in (await client.sessions()).sessions}
        if found.get(session.id) == busy:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"session {session.id} does not become busy={busy}: {found}")


async def test_cells_share_state_and_show_what_jupyter_shows(session: JupyterSession) -> None:
    first = await session.run("import sys\nx = 40\nprint('out'); print('err', file=sys.stderr); print('out', 2)")
    assert (first.verdict, first.alive) == (Verdict.OK, True), first
    assert (first.stdout, first.stderr, first.result) == ("out\nout 2\n", "err\n", None)
    second = await session.run("x += 2; x")
    assert second.result == "42"
    assert second.execution_count == (first.execution_count or 0) + 1
    shown = await session.run("from IPython.display import HTML, display\ndisplay(HTML('<b>bold</b>'))")
    (output,) = shown.outputs
    assert isinstance(output, DisplayOutput)
    assert output.data["text/html"] == "<b>bold</b>"
    failed = await session.run("1 / (x - 42)")
    (error,) = failed.outputs
    assert isinstance(error, ErrorOutput)
    assert (failed.verdict, failed.alive, failed.detail) == (
        Verdict.RE,
        True,
        "it raised ZeroDivisionError: division by zero",
    )
    assert any("1 / (x - 42)" in line or "ZeroDivisionError" in line for line in error.traceback)
    assert (await session.run("open('data/in.txt', 'rb').read()")).result == r"b'\xff\x00'"


async def test_a_cell_knows_what_it_used(session: JupyterSession) -> None:
    used = await session.run("sum(range(10_000_000))")
    assert used.verdict == Verdict.OK
    assert 0.05 <= used.cpu_seconds <= 10
    assert used.wall_seconds > 0
    assert 30 * MEBIBYTE <= used.memory_bytes <= 512 * MEBIBYTE


@pytest.mark.parametrize(
    ("code", "limits"),
    [
        ("while True: pass", CellLimits(cpu_seconds=0.5)),
        ("import time; time.sleep(600)", CellLimits(wall_seconds=0.5)),
        ("import subprocess; subprocess.run('while :; do :; done', shell=True)", CellLimits(cpu_seconds=0.5)),
    ],
)
async def test_a_cell_beyond_its_time_is_interrupted_and_the_state_stays(
    session: JupyterSession, code: str, limits: CellLimits
) -> None:
    await session.run("kept = 'here'")
    late = await session.run(code, limits)
    assert (late.verdict, late.alive) == (Verdict.TLE, True), late
    assert any(isinstance(output, ErrorOutput) and output.ename == "KeyboardInterrupt" for output in late.outputs)
    assert (await session.run("kept")).result == "'here'"


async def test_a_cell_that_shows_too_much_is_interrupted_and_the_state_stays(session: JupyterSession) -> None:
    await session.run("kept = 'here'")
    for code in ("while True: print('x' * 1000)", "display({'text/plain': 'x' * 10_000_000}, raw=True)"):
        flood = await session.run(code, CellLimits(output_bytes=20_000))
        assert (flood.verdict, flood.alive) == (Verdict.OLE, True), flood
        assert len(flood.model_dump_json()) < 25_000
        assert flood.stdout == "" or len(flood.stdout) > 10_000
    assert (await session.run("kept")).result == "'here'"


async def test_a_client_that_goes_away_has_its_cell_interrupted_and_the_state_stays(
    client: SandboxClient, session: JupyterSession
) -> None:
    await session.run("kept = 'here'")
    waits = asyncio.create_task(session.run("import time; time.sleep(600)", CellLimits(wall_seconds=600)))
    await until(client, session, busy=True)
    with pytest.raises(SandboxError, match=r"409.*runs a cell"):
        await session.run("1")
    waits.cancel()
    await until(client, session, busy=False)
    assert (await session.run("kept")).result == "'here'"


async def test_input_cannot_be_asked_for(session: JupyterSession) -> None:
    asked = await session.run("input()")
    assert (asked.verdict, asked.alive) == (Verdict.RE, True)
    assert "StdinNotImplementedError" in asked.detail


async def test_sessions_see_nothing_of_each_other(session: JupyterSession, own_session: JupyterSession) -> None:
    assert (await own_session.run(TRACES)).verdict == Verdict.OK
    found = await session.run(SEARCH)
    assert found.stdout == "[] 1 1000\n", found


async def test_a_session_has_no_network(session: JupyterSession, sandbox: RunningSandbox) -> None:
    code = f"import socket; socket.create_connection(('127.0.0.1', {sandbox.port}), 2)"
    assert "ConnectionRefusedError" in (await session.run(code)).detail
    assert (await session.run("import os; os.unshare")).verdict in (Verdict.OK, Verdict.RE)
    refused = await session.run("import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))")
    assert refused.stdout == "-1\n"


@pytest.mark.long
async def test_a_cell_that_ignores_the_interrupt_ends_its_session(own_session: JupyterSession) -> None:
    late = await own_session.run(STUBBORN, CellLimits(cpu_seconds=0.3))
    assert (late.verdict, late.alive) == (Verdict.TLE, False), late
    with pytest.raises(SessionOver, match=r"went on although it was interrupted.*makes another"):
        await own_session.run("1")


async def test_a_memory_bomb_is_ended(own_session: JupyterSession, sandbox: RunningSandbox) -> None:
    bomb = await own_session.run("x = [bytearray(b'1' * (1 << 20)) for _ in range(1000)]")
    if sandbox.unprivileged and bomb.verdict == Verdict.RE:  # it asked for much more between two looks, and got none
        assert "MemoryError" in bomb.detail
    else:
        assert (bomb.verdict, bomb.alive) == (Verdict.MLE, False), bomb


async def test_a_kernel_that_dies_ends_its_session(own_session: JupyterSession, client: SandboxClient) -> None:
    dead = await own_session.run("import os; os._exit(3)")
    assert (dead.verdict, dead.alive) == (Verdict.RE, False), dead
    assert "its kernel has died" in dead.detail
    assert own_session.id not in {each.id for each in (await client.sessions()).sessions}


@pytest.mark.long
async def test_who_speaks_in_place_of_the_driver_ends_its_session(
    own_session: JupyterSession, client: SandboxClient
) -> None:
    code = "import os; os.write(os.open(f'/proc/{os.getppid()}/fd/1', os.O_WRONLY), b'rubbish\\n')"
    forged = await own_session.run(code)
    assert (forged.verdict, forged.alive) == (Verdict.RE, False), forged
    assert (await client.sessions()).most == 8


async def test_a_session_can_be_ended_while_a_cell_runs(client: SandboxClient, sandbox: RunningSandbox) -> None:
    made = await client.make_session(SessionRequest())
    session = JupyterSession(client, made)
    marker = "987653.25"
    running = asyncio.create_task(
        session.run(f"import subprocess; subprocess.run(['sleep', '{marker}'])", CellLimits(wall_seconds=600))
    )
    await asyncio.to_thread(wait_until, lambda: f"sleep {marker}" in sandbox.program_processes(), "the cell runs")
    await client.end_session(made.id)
    assert f"sleep {marker}" not in sandbox.program_processes()
    with pytest.raises(SessionOver, match=r"ended by a client"):
        await running


@pytest.mark.long
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (SessionRequest(idle_seconds=1), "no cell has run for 1 s"),
        (SessionRequest(ttl_seconds=1), "time to live, 1 s, is over"),
    ],
)
async def test_a_session_ends_when_nobody_uses_it_or_with_its_time_to_live(
    client: SandboxClient, given: SessionRequest, reason: str
) -> None:
    made = await client.make_session(given)
    await until(client, JupyterSession(client, made), busy=None)
    with pytest.raises(SessionOver, match=reason):
        await JupyterSession(client, made).run("1")


async def test_bad_requests_are_told_what_is_wrong(client: SandboxClient) -> None:
    with pytest.raises(SandboxError, match=r"422.*no Jupyter kernel cobol: build one .*python3-ipykernel"):
        await client.make_session(SessionRequest(kernel="cobol"))
    with pytest.raises(SandboxError, match=r"404.*no session nobody"):
        await client.session("nobody")
    assert (await client.languages()).kernels["python3"] == ("host",)


async def test_sessions_are_so_many_and_end_with_a_service_that_is_killed(other_sandbox: RunningSandbox) -> None:
    other_sandbox.options = (*other_sandbox.options, "--sessions", "1")
    before = count_kernels(other_sandbox)
    await asyncio.to_thread(other_sandbox.start)
    async with SandboxClient(other_sandbox.url, TOKEN, patience_seconds=0.1) as impatient:
        async with httpx.AsyncClient(base_url=other_sandbox.url, headers=HEADERS, timeout=60) as http:
            made = await http.post("/v1/sessions", json={})
            assert made.status_code == 201, made.text
            refused = await http.post("/v1/sessions", json={})
            assert (refused.status_code, "all 1 sessions are in use" in refused.text) == (429, True)
            assert int(refused.headers["Retry-After"]) >= 1
            assert "tandem_sandbox_sessions 1.0" in (await http.get("/metrics")).text
        assert count_kernels(other_sandbox) == before + 1
        session = JupyterSession(impatient, await impatient.session(made.json()["id"]))
        running = asyncio.create_task(session.run("import time; time.sleep(600)", CellLimits(wall_seconds=600)))
        await until(impatient, session, busy=True)
        await asyncio.to_thread(other_sandbox.stop, signal.SIGKILL)
        with pytest.raises(SandboxUnavailable, match="whether it has run is not known"):
            await running
    await asyncio.to_thread(wait_until, lambda: count_kernels(other_sandbox) == before, "the kernel is gone", 10.0)


def count_kernels(sandbox: RunningSandbox) -> int:
    """Of all services of this kind."""
    return sum("-m ipykernel" in command for command in sandbox.program_processes())
