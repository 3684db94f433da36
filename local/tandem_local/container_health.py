"""Follows a container's probes while its process runs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tandem_local.pods import LocalContainer
from tandem_local.probe_specs import Check, Probe
from tandem_local.probes import ProbeCounter


@dataclass(frozen=True)
class ContainerHealth:
    """The probes of one run of a container."""

    container: LocalContainer
    check: Callable[[Check, float], Awaitable[str]]
    """Carries out a check within so many seconds; empty: it passed."""
    on_started: Callable[[], None]
    on_ready: Callable[[bool], None]

    async def watch(self) -> str:
        """Returns only if the container is to be ended, and then why."""
        container = self.container
        if container.startup is not None:
            problem = await self._follow(container.startup, "start-up", until_passed=True)
            if problem:
                return problem
        self.on_started()
        self.on_ready(container.readiness is None)
        follows = []
        if container.readiness is not None:
            follows.append(asyncio.create_task(self._follow_readiness(container.readiness)))
        if container.liveness is not None:
            follows.append(asyncio.create_task(self._follow(container.liveness, "liveness", until_passed=False)))
        try:
            if not follows:
                await asyncio.Event().wait()  # until the container ends and this is cancelled
            done, _ = await asyncio.wait(follows, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in follows:
                task.cancel()

    async def _follow(self, probe: Probe, name: str, *, until_passed: bool) -> str:
        """Empty once it passed (with `until_passed`), or why it failed too often."""
        counter = ProbeCounter(probe)
        await asyncio.sleep(probe.initial_delay_seconds)
        while True:
            next_at = time.monotonic() + probe.period_seconds  # a check that takes its time does not delay the next
            problem = await self.check(probe.check, probe.timeout_seconds)
            verdict = counter.observe(not problem)
            if verdict is False:
                return f"{name} probe failed {probe.failure_threshold} times in a row: {problem}"
            if verdict and until_passed:
                return ""
            await asyncio.sleep(next_at - time.monotonic())

    async def _follow_readiness(self, probe: Probe) -> str:
        """Never returns."""
        counter = ProbeCounter(probe)
        known: bool | None = None
        await asyncio.sleep(probe.initial_delay_seconds)
        while True:
            ready = counter.observe(not await self.check(probe.check, probe.timeout_seconds))
            if ready is not None and ready is not known:
                known = ready
                self.on_ready(ready)
            await asyncio.sleep(probe.period_seconds)
