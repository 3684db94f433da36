"""Blocking work in threads, for callers that may be cancelled."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor

from tandem_core.errors import TandemError

from tandem_sandbox.job import ContainerError

FORKS = threading.Lock()
"""Held by who starts a process, and by who writes a program: what one thread has open is open in another one's child,
too, until that has become another program; and what is open for writing cannot be run (ETXTBSY)."""


class Cancellation:
    """Ends a run from another thread."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def cancel(self) -> None:
        """End the run that watches it, or the next one."""
        os.eventfd_write(self.descriptor, 1)

    def close(self) -> None:
        """After the run."""
        os.close(self.descriptor)


async def run_in_thread[R](threads: Executor, work: Callable[[Cancellation], R]) -> R:
    """What `work` returns or raises. When cancelled, so is the work, and it has ended before this returns."""
    cancellation = Cancellation()
    try:
        running = asyncio.get_running_loop().run_in_executor(threads, work, cancellation)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            cancellation.cancel()
            with contextlib.suppress(ContainerError, TandemError):
                await running
            raise
    finally:
        cancellation.close()
