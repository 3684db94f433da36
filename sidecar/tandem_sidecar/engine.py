"""The engine of a pod: a vLLM process and its weights, seen as a machine with few states.

It serves only between a load that was probed and the next pause. An update that fails leaves weights that are neither
the old nor the new ones: the process is ended, and the load tried once more on a new one.
"""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from tandem_core.coordination.records import EngineState, EngineStatus

from tandem_sidecar.engine_arguments import EngineCommand
from tandem_sidecar.engine_client import EngineClient, EngineError
from tandem_sidecar.engine_process import EngineProcess, EngineProcessError
from tandem_sidecar.engine_watch import wait_for_hang
from tandem_sidecar.follow import LoadedVersion, ReleaseMode
from tandem_sidecar.metrics import note_step
from tandem_sidecar.timeline import Timeline

log = structlog.get_logger()

READINESS_INTERVAL_SECONDS = 0.02
PROGRESS_INTERVAL_SECONDS = 15.0
FAREWELL_SECONDS = 3.0
"""How long an engine that is ended for good may take to hand back partial answers."""


@dataclass(frozen=True)
class EngineSettings:
    """What an Engine is made of."""

    command: EngineCommand
    token: str
    release: ReleaseMode
    record_file: Path
    """Where the running process is noted, for a successor of this process."""
    start_timeout_seconds: float
    max_concurrent_sequences: int
    trust: ssl.SSLContext | None = None
    """Whom to believe to be this engine; None: its HTTP is not encrypted."""


class Engine:
    """One engine; an async context manager, which leaves nothing running. Its methods wait for each other."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._process = EngineProcess(settings.command, settings.record_file)
        self._client = EngineClient(settings.command.url, settings.token, settings.trust)
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._asleep = False
        self._lost = False
        self.state = EngineState.RELEASED
        self.loaded: LoadedVersion | None = None
        """None: no weights of the trainer."""
        self.restarts = 0
        """How often an engine had to be started because one crashed or failed an update."""
        self.timeline = Timeline(note_step)

    async def __aenter__(self) -> Self:
        await self._process.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state is EngineState.SERVING:
            with suppress(EngineError, TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._pause()
        if self._watching is not None:
            self._watching.cancel()
        await self._process.stop(term_seconds=0)
        await self._process.__aexit__(kind, error, trace)
        await self._client.__aexit__(kind, error, trace)

    @property
    def status(self) -> EngineStatus:
        """What others may know."""
        return EngineStatus(
            url=self._settings.command.url,
            state=self.state,
            version=self.loaded.version if self.loaded is not None else -1,
            restarts=self.restarts,
            max_concurrent_sequences=self._settings.max_concurrent_sequences,
        )

    @property
    def pid(self) -> int | None:
        """Process number of vLLM's server."""
        return self._process.pid

    async def wait_for_change(self, seen: EngineStatus) -> None:
        """Return as soon as the status is another than `seen`."""
        while self.status == seen:
            await self._changed.wait()

    async def start(self) -> None:
        """Have an engine, awake and paused; raises EngineError or EngineProcessError."""
        async with self._lock:
            await self._ensure_up()

    async def stop(self) -> None:
        """End the process with all it holds."""
        async with self._lock:
            await self._end(EngineState.RELEASED)

    async def pause(self) -> None:
        """Answer requests in flight with what they have; later ones wait."""
        async with self._lock:
            await self._pause()

    async def resume(self) -> None:
        """Serve again after pause(); raises EngineError if there are no weights to serve."""
        async with self._lock:
            if self.loaded is None or self.state is not EngineState.IDLE:
                raise EngineError(f"the engine is {self.state} with no committed weights: load a version first")
            await self._client.resume()
            self._become(EngineState.SERVING)

    async def release(self, mode: ReleaseMode | None = None) -> None:
        """Stop generating and give up the devices; `mode` defaults to the job's.

        An engine that does not do as it is told is ended: the trainer is waiting.
        """
        mode = mode or self._settings.release
        async with self._lock:
            try:
                if self.state is EngineState.SERVING:
                    await self._pause()
                with self.timeline.measure("release"):
                    if mode == "restart" or self.state is EngineState.FAILED:
                        await self._end(EngineState.RELEASED)
                    elif mode == "sleep" and self.state is EngineState.IDLE:
                        await self._client.sleep()
                        self._asleep, self.loaded = True, None
                        self._become(EngineState.RELEASED)
            except EngineError as error:
                log.error("the engine does not release its memory; ending it", error=str(error))
                await self._discard()

    async def load(self, loaded: LoadedVersion, load_file: Path) -> None:
        """Serve the verified weights that `load_file` names.

        If that fails, once more on a new engine; then raises EngineError or EngineProcessError, and no engine runs.
        """
        async with self._lock:
            try:
                await self._switch(loaded, load_file)
            except (EngineError, EngineProcessError) as error:
                log.error("loading failed; once more on a new engine", version=loaded.version, error=str(error))
                await self._discard()
                try:
                    await self._switch(loaded, load_file)
                except (EngineError, EngineProcessError):
                    await self._discard()
                    self._become(EngineState.FAILED)
                    raise

    async def _switch(self, loaded: LoadedVersion, load_file: Path) -> None:
        await self._ensure_up()
        self.loaded = None
        self._become(EngineState.IDLE)
        self.timeline.add(*await self._client.load(str(load_file), loaded.version))
        self.loaded = loaded
        self._become(EngineState.SERVING)

    async def _pause(self) -> None:
        self.timeline.add(*await self._client.pause())
        self._become(EngineState.IDLE)

    async def _ensure_up(self) -> None:
        if self._asleep:
            with self.timeline.measure("wake"):
                await self._client.wake()
                await self._pause()  # waking lets the scheduler run again
            self._asleep = False
        elif self._process.pid is None:
            await self._start()

    async def _start(self) -> None:
        self._become(EngineState.STARTING)
        self.restarts += self._lost
        self._lost = False
        try:
            with self.timeline.measure("start"):
                pid = await self._process.start()
                self._watching = asyncio.create_task(self._watch(pid), name="watch of the engine")
                await self._wait_until_healthy()
                await self._client.init_weights()
                await self._client.pause()
        except (EngineError, EngineProcessError, TimeoutError) as error:
            await self._discard()
            self._become(EngineState.FAILED)
            if isinstance(error, TimeoutError):
                raise EngineProcessError(
                    f"vLLM did not answer within {self._settings.start_timeout_seconds:.0f} s of its start: its log "
                    "says what it was doing; if it only needs longer, raise spec.deadlines.startup"
                ) from error
            raise
        self._become(EngineState.IDLE)

    async def _wait_until_healthy(self) -> None:
        # vLLM says nowhere that it is ready: its port is asked until it answers.
        loop = asyncio.get_running_loop()
        report_at = loop.time() + PROGRESS_INTERVAL_SECONDS
        async with asyncio.timeout(self._settings.start_timeout_seconds):
            while not await self._client.healthy():
                if self._process.ended.is_set():
                    raise EngineProcessError(
                        f"vLLM ended with status {self._process.status} while it started: the last lines of its log "
                        "say why; hybrid.inference of the RLJob is where its arguments come from"
                    )
                if loop.time() > report_at:
                    log.info("vLLM is still starting", pid=self._process.pid)
                    report_at += PROGRESS_INTERVAL_SECONDS
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.ended.wait(), READINESS_INTERVAL_SECONDS)

    async def _watch(self, pid: int) -> None:
        """End an engine that hangs, and note the end of one that nobody ended."""
        hanging = asyncio.create_task(wait_for_hang(self._client, pid, lambda: self.state is EngineState.STARTING))
        ending = asyncio.create_task(self._process.ended.wait())
        try:
            await asyncio.wait([hanging, ending], return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                log.error("vLLM hangs; ending it", engine=pid, reason=hanging.result(), state=self.state)
                await self._process.stop(term_seconds=0)
        except EngineProcessError as error:
            log.error("vLLM cannot be ended", error=str(error))
        finally:
            hanging.cancel()
            ending.cancel()
        log.error("vLLM has ended", status=self._process.status, state=self.state)
        self._forget(lost=True)
        self._become(EngineState.FAILED)

    async def _discard(self) -> None:
        """End an engine whose weights are not to be trusted."""
        await self._end(EngineState.RELEASED)
        self._lost = True

    async def _end(self, state: EngineState) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        await self._process.stop(term_seconds=0)  # nothing in it is worth a second of the trainer's time
        self._forget(lost=self._lost)
        self._become(state)

    def _forget(self, *, lost: bool) -> None:
        self.loaded, self._asleep, self._lost = None, False, lost

    def _become(self, state: EngineState) -> None:
        if state in (EngineState.IDLE, EngineState.SERVING) and self._process.pid is None:
            raise EngineError("vLLM has ended meanwhile")
        self.state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
