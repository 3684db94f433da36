"""Waiting with a deadline, and between looks at a file."""

import asyncio
import time

_POLL_SECONDS = 0.2


def sleep_between_polls() -> None:
    """Wait before looking again at something that gives no notice."""
    time.sleep(_POLL_SECONDS)


async def wait_for_event(
    event: asyncio.Event, timeout_seconds: float, *, or_event: asyncio.Event | None = None
) -> bool:
    """Whether `event` (or `or_event`) was set within `timeout_seconds`."""
    waits = [asyncio.create_task(item.wait()) for item in (event, or_event) if item is not None]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
    return bool(done)
