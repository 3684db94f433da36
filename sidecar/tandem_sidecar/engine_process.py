"""The vLLM process from outside: start it, know when it ends, end it, leave nothing behind."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import structlog
from tandem_core.errors import TandemError

from tandem_sidecar.engine_arguments import EngineCommand
from tandem_sidecar.engine_watch import is_stopped
from tandem_sidecar.sweep import sweep_engine_files

log = structlog.get_logger()

PRELOAD_TIMEOUT_SECONDS = 300.0
"""Importing vLLM with nothing cached on a loaded machine took 127 s."""
TERM_SECONDS = 5.0
"""How long an engine may take to end by itself; it has nothing to save."""
KILL_SECONDS = 30.0
"""How long the kernel and the driver may take to end a killed engine and give back its memory."""


class EngineProcessError(TandemError):
    """vLLM could not be started, or ended when it should not."""


@dataclass(frozen=True)
class EngineRecord:
    """Written to a file while an engine runs, so that the next checkpoint engine finds what this one left."""

    pid: int
    created_at: float
    """The process's start time as psutil gives it: tells it from a later process of the same number."""
    started_at: float
    """Unix time in seconds before which the engine made no files."""


class EngineProcess:
    """One vLLM server at a time, through a launcher process; an async context manager.

    Entering it removes what a killed predecessor left, and starts the launcher in the background. Leaving it ends
    the engine. If this process is killed, the launcher ends the engine.
    """

    def __init__(self, command: EngineCommand, record_file: Path) -> None:
        self._command = command
        self._record_file = record_file
        self._launcher: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._started: asyncio.Future[int] | None = None
        self.pid: int | None = None
        """Process, and session, of the server; None: none runs."""
        self.status: int | None = None
        """Exit status of the last engine; negative: the signal that ended it."""
        self.ended = asyncio.Event()
        """Set while no engine runs and nothing of one is left."""
        self.ended.set()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(sweep_predecessor, self._record_file, self._command.scratch_directory)
        await self._launch()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        await self._close_launcher()
        shutil.rmtree(self._command.scratch_directory, ignore_errors=True)

    async def start(self) -> int:
        """Start a server; returns its process number at once, long before it answers requests.

        Raises EngineProcessError if the launcher fails or takes longer than PRELOAD_TIMEOUT_SECONDS to import vLLM.
        """
        if self._launcher is None or self._launcher.returncode is not None or self._writer is None or self._is_stuck():
            await self._close_launcher()
            await self._launch()
        try:
            async with asyncio.timeout(PRELOAD_TIMEOUT_SECONDS):
                await self._ready.wait()
                if self._writer is None:
                    raise EngineProcessError("the launcher of vLLM ended: its last log lines say why")
                self._started = asyncio.get_running_loop().create_future()
                self._send({"start": self._command.arguments})
                return await self._started
        except TimeoutError as error:
            raise EngineProcessError(
                f"the launcher of vLLM was not ready within {PRELOAD_TIMEOUT_SECONDS:.0f} s: is the machine overloaded?"
            ) from error

    async def stop(self, term_seconds: float = TERM_SECONDS) -> None:
        """End the engine with everything it started: SIGTERM, and SIGKILL after `term_seconds`.

        Raises EngineProcessError if something cannot be killed, and so still holds memory.
        """
        with suppress(TimeoutError):
            if not self.ended.is_set() and term_seconds > 0:
                self._send({"signal": signal.SIGTERM})
                await asyncio.wait_for(self.ended.wait(), term_seconds)
        try:
            if not self.ended.is_set():
                if self._launcher is not None and self._is_stuck():
                    self._launcher.kill()  # and the engine with it
                self._send({"signal": signal.SIGKILL})
                await asyncio.wait_for(self.ended.wait(), KILL_SECONDS)
        except TimeoutError as error:
            raise EngineProcessError(
                f"vLLM (process {self.pid}) is still there {KILL_SECONDS:.0f} s after SIGKILL: a driver does not let "
                "it go; the node may need a look"
            ) from error

    def _is_stuck(self) -> bool:
        """Whether the launcher was stopped, so that it carries nothing out."""
        return self._launcher is not None and is_stopped(self._launcher.pid)

    async def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        self._ready.clear()
        arguments = ["--channel", str(theirs.fileno()), "--scratch", str(self._command.scratch_directory)]
        arguments += ["--preload", str(self._command.preload)] if self._command.preload else []
        with theirs:
            self._launcher = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tandem_sidecar.launcher",
                *arguments,
                stdin=DEVNULL,
                pass_fds=[theirs.fileno()],
                # vLLM logs 80 lines for each start, and a person may want them: their setting wins.
                env={"VLLM_LOGGING_LEVEL": "WARNING", **os.environ, **self._command.environment},
                # A Ctrl-C in the terminal is for the checkpoint engine, which then ends things in order.
                start_new_session=True,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._reading = asyncio.create_task(self._read(reader), name="events of the launcher")

    async def _close_launcher(self) -> None:
        """Close the channel, which ends the launcher."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._launcher is not None:
            with suppress(TimeoutError):
                # While it imports it does not look at the channel, and has no engine.
                await asyncio.wait_for(self._launcher.wait(), TERM_SECONDS if self._ready.is_set() else 0)
            if self._launcher.returncode is None:
                self._launcher.kill()
                await self._launcher.wait()
            self._launcher = None
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _send(self, request: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(request).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
        except ConnectionError as error:
            log.warning("channel to the launcher broke", error=str(error))
        finally:
            await self._lose()

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "ready":
                self._ready.set()
            case "started":
                self.pid = event["pid"]
                self.status = None
                self.ended.clear()
                problem = self._write_record(event["pid"])
                if self._started is not None and not self._started.done():
                    if problem:
                        self._started.set_exception(EngineProcessError(problem))
                    else:
                        self._started.set_result(event["pid"])
            case "ended":
                self.pid, self.status = None, event["status"]
                self._record_file.unlink(missing_ok=True)
                self.ended.set()

    async def _lose(self) -> None:
        """The launcher is gone. Its engine's server was killed with it; what else there was is killed here."""
        self._writer = None
        if self.pid is not None:
            log.error("the launcher of vLLM died, and vLLM with it", engine=self.pid)
            await asyncio.to_thread(sweep_predecessor, self._record_file, self._command.scratch_directory)
            self.pid, self.status = None, -int(signal.SIGKILL)
        if self._started is not None and not self._started.done():
            self._started.set_exception(EngineProcessError("the launcher of vLLM ended: its last log lines say why"))
        self._ready.set()  # whoever waits for it fails at once rather than at the deadline
        self.ended.set()

    def _write_record(self, pid: int) -> str:
        """Why it could not be written; an engine without a record would outlive this process."""
        with suppress(psutil.NoSuchProcess):  # it ended already: the event is on its way
            record = EngineRecord(pid, psutil.Process(pid).create_time(), time.time() - 1.0)
            try:
                self._record_file.parent.mkdir(parents=True, exist_ok=True)
                self._record_file.write_text(json.dumps(asdict(record)))
            except OSError as error:
                return f"{self._record_file} cannot be written: {error.strerror}"
        return ""


def sweep_predecessor(record_file: Path, scratch: Path) -> None:
    """End the engine that `record_file` tells of, if it still runs, and remove its files.

    Usually there is nothing to do: the launcher ends its engine. This is for when both were killed at once.
    """
    record = _load_record(record_file)
    if record is not None:
        _kill_session(record)
    swept = sweep_engine_files(scratch, record.started_at if record is not None else time.time())
    record_file.unlink(missing_ok=True)
    if record is not None:
        log.warning("removed what a killed engine left", engine=record.pid, segments=len(swept))


def _load_record(record_file: Path) -> EngineRecord | None:
    try:
        return EngineRecord(**json.loads(record_file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:  # a write was cut short: the engine cannot be told from others
        log.warning("the record of the last engine cannot be read", file=str(record_file), error=str(error))
        return None


def _kill_session(record: EngineRecord) -> None:
    victims = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            leader = process.pid == record.pid and abs(process.create_time() - record.created_at) < 1.0
            # The leader may be gone: then its number is not given away while its session lives.
            member = os.getsid(process.pid) == record.pid and process.create_time() >= record.created_at - 1.0
            if leader or member:
                process.kill()
                victims.append(process)
    deadline = time.monotonic() + KILL_SECONDS
    while any(_holds_memory(process) for process in victims) and time.monotonic() < deadline:
        time.sleep(0.01)


def _holds_memory(process: psutil.Process) -> bool:
    # A zombie holds none, and may stay one: its parent, which this process is not, would have to ask for it.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
