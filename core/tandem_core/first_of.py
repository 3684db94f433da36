"""Several pieces of work, of which the first to end is the end of all."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def first_of(*work: Awaitable[Any]) -> None:
    """Return, or raise, as the first one does; the others are cancelled, and have ended then."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
