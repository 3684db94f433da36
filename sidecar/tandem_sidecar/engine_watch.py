"""Finds an engine that does nothing any more, though its process is there.

vLLM's /health looks at the API server alone. A question that only the loop of EngineCore can answer comes back between
two steps: late while the engine is busy, never when a process of it hangs. What is slow uses the processor, or makes it
to an answer in the end; so no engine is ended for being slow, however loaded the machine.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tandem_sidecar.engine_client import EngineClient

CHECK_SECONDS = 1.0
STOPPED_CHECKS = 3
"""Nobody continues a process of an engine that was stopped (SIGSTOP); a debugger's stop is another state."""
SILENT_CHECKS = 15
"""Without an answer and almost without processor time. A step on a GPU, in which the processor may wait, is far
shorter."""
BUSY_CHECKS = 600
"""Without an answer, but busy: longer than any step or update takes."""
PROGRESS_SECONDS = 0.2
"""Processor time that tells an engine that works from one whose server alone still takes requests."""


@dataclass(frozen=True)
class Vitals:
    """An engine's processes, seen from outside."""

    stopped: tuple[int, ...]
    """Those that were stopped and do not run until somebody continues them."""
    processor_seconds: float
    """Used by all of them so far."""


class HangDetector:
    """Turns what is seen once in CHECK_SECONDS into a verdict. Pure.

    It counts checks and not seconds: on a machine that stood still, or starves this process, no engine hangs.
    """

    def __init__(self) -> None:
        self._stopped = self._unanswered = self._silent = 0
        self._progress_at = 0.0

    def answered(self) -> None:
        """The engine has answered."""
        self._stopped = self._unanswered = self._silent = 0

    def unanswered(self, seen: Vitals, *, starting: bool) -> str:
        """Why the engine hangs; empty: it does not, as far as one can tell."""
        self._unanswered += 1
        self._stopped = self._stopped + 1 if seen.stopped else 0
        if seen.processor_seconds - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at, self._silent = seen.processor_seconds, 0
        self._silent += 1
        if self._stopped >= STOPPED_CHECKS:
            return f"processes {', '.join(map(str, seen.stopped))} of it are stopped"
        if starting:  # how long that may take is for the one who waits for it
            self._unanswered = self._silent = 0
            return ""
        if self._silent >= SILENT_CHECKS:
            return f"it neither answers nor works, for {self._silent * CHECK_SECONDS:.0f} s"
        return f"no answer for {BUSY_CHECKS * CHECK_SECONDS:.0f} s" if self._unanswered >= BUSY_CHECKS else ""


async def wait_for_hang(client: EngineClient, pid: int, starting: Callable[[], bool]) -> str:
    """Return when the engine whose server is `pid` hangs or is dead inside, with the reason; otherwise never."""
    detector = HangDetector()
    asking = asyncio.create_task(client.ask_core())
    try:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if asking.done() and asking.exception() is None:
                if not asking.result():
                    return "its EngineCore has died"
                detector.answered()
            elif hang := detector.unanswered(await asyncio.to_thread(observe_vitals, pid), starting=starting()):
                return hang
            if asking.done():
                asking = asyncio.create_task(client.ask_core())
    finally:
        asking.cancel()


def observe_vitals(pid: int) -> Vitals:
    """Of the process `pid` and all it has started."""
    stopped, processor_seconds = [], 0.0
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                processor_seconds += sum(process.cpu_times()[:4])  # with that of children that have ended
                if is_stopped(process.pid):
                    stopped.append(process.pid)
    return Vitals(tuple(stopped), processor_seconds)


def is_stopped(pid: int) -> bool:
    """Whether the process does not run until somebody continues it."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False
