"""Runs in the sandbox, so many at a time; what it fails at is tried again."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from tandem_core.errors import TandemError
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.messages import RunRequest, RunResult, Verdict

_ATTEMPTS = 3


class Runs:
    """Asks the sandbox, for as many callers as there are."""

    def __init__(self, client: SandboxClient, at_a_time: int) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(at_a_time)

    async def run(self, request: RunRequest) -> RunResult:
        """The result; its verdict is IE only if the sandbox failed three times. Raises SandboxError,
        SandboxUnavailable."""
        for _ in range(_ATTEMPTS):
            async with self._slots:
                result = await self._client.run(request)
            if result.verdict != Verdict.IE:
                break
        return result


async def run_together[T](works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order. The first TandemError or OSError ends the others, and is raised alone, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except* (TandemError, OSError) as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
