"""Carrying out probes."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tandem_local.probe_specs import Check, ExecCheck, HttpCheck, Probe, TcpCheck

_FIRST_BAD_STATUS = 400


class ProbeCounter:
    """Turns single results into a verdict, by the probe's thresholds. Pure."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._passed = 0
        self._failed = 0

    def observe(self, passed: bool) -> bool | None:
        """True: passed often enough in a row; False: failed often enough in a row; None: neither yet."""
        self._passed = self._passed + 1 if passed else 0
        self._failed = 0 if passed else self._failed + 1
        if self._passed >= self._probe.success_threshold:
            return True
        return False if self._failed >= self._probe.failure_threshold else None


class Prober:
    """Carries out checks; an async context manager that all containers of a run share."""

    def __init__(self) -> None:
        # Neither proxies nor kept connections: each check asks the pod itself, anew.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.AsyncClient(verify=False, trust_env=False, limits=limits)  # noqa: S501 - as kubelet does

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def check(self, check: Check, timeout_seconds: float, environment: Mapping[str, str], directory: Path) -> str:
        """Empty if the check passed, else why not. `environment` and `directory` are for commands."""
        try:
            async with asyncio.timeout(timeout_seconds):
                match check:
                    case HttpCheck():
                        return await self._check_http(check)
                    case TcpCheck():
                        return await _check_tcp(check)
                    case ExecCheck():
                        return await _check_exec(check, environment, directory)
        except TimeoutError:
            return f"no answer within {timeout_seconds:g} s"

    async def _check_http(self, check: HttpCheck) -> str:
        try:
            response = await self._http.get(check.url, headers=dict(check.headers), timeout=None)
        except httpx.HTTPError as error:
            return f"{check.url}: {error or type(error).__name__}"
        return "" if response.status_code < _FIRST_BAD_STATUS else f"{check.url} answered {response.status_code}"


async def _check_tcp(check: TcpCheck) -> str:
    try:
        _, writer = await asyncio.open_connection(check.host, check.port)
    except OSError as error:
        return f"{check.host}:{check.port}: {error.strerror or error}"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


async def _check_exec(check: ExecCheck, environment: Mapping[str, str], directory: Path) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *check.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=dict(environment),
            cwd=directory,
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot run {check.command[0]}: {error.strerror}"
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return "" if code == 0 else f"{check.command[0]} exited with {code}"
