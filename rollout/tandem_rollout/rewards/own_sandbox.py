"""A code sandbox on the master's own machine, for jobs that name none."""

import asyncio
import os
import secrets
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from pathlib import Path

import httpx
from tandem_core.job.rewards import CodeReward
from tandem_core.sandbox.client import SandboxClient

from tandem_rollout.rewards.answers import RewardError

TOKEN_VARIABLE = "TANDEM_SANDBOX_TOKEN"  # noqa: S105 - the name of a variable
_START_SECONDS = 120.0
_END_SECONDS = 20.0
_LOOK_AGAIN_SECONDS = 0.1


class OwnSandbox:
    """A process that serves until `stop`, and no longer than this one."""

    def __init__(self) -> None:
        self._token = secrets.token_urlsafe(32)
        self._home = Path(tempfile.mkdtemp(prefix="tandem-sandbox-"))
        self._process: Process | None = None
        self.url = ""

    async def start(self) -> None:
        """Returns when it is ready. Raises RewardError."""
        token_file = self._home / "given-token"
        token_file.touch(mode=0o600)
        token_file.write_text(self._token)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        options = ["--home", str(self._home), "--port", str(port), "--token-file", str(token_file), "--with-parent"]
        if os.geteuid() != 0:
            options.append("--unprivileged")
        self._process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tandem_sandbox", *options)
        try:
            async with asyncio.timeout(_START_SECONDS), httpx.AsyncClient() as client:
                while True:
                    if await self._is_ready(client):
                        return
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        except TimeoutError:
            await self.stop()
            raise RewardError(f"the code sandbox was not ready after {_START_SECONDS:g} s; see the log") from None

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        if self._process is None or self._process.returncode is not None:
            raise RewardError(
                "the code sandbox did not start, its own words are in the log: it needs crun "
                "(tools/set-up-sandbox), and root or a user that may make user namespaces. Or start one elsewhere, and "
                "name it in the reward's sandboxUrl"
            )
        try:
            return (await client.get(f"{self.url}/readyz")).is_success
        except httpx.HTTPError:
            return False

    def connect(self) -> SandboxClient:
        """A new client of it."""
        return SandboxClient(self.url, self._token)

    async def stop(self) -> None:
        """End it, and all that runs in it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        shutil.rmtree(self._home, ignore_errors=True)


def connect_sandbox(reward: CodeReward, own: OwnSandbox | None) -> SandboxClient:
    """A client of the sandbox that the reward names, or of our own. Raises RewardError."""
    if reward.sandbox_url is None:
        if own is None:
            raise RewardError("no sandbox has been started")
        return own.connect()
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise RewardError(
            f"{TOKEN_VARIABLE} is not set in the master's pod: it is the bearer token of {reward.sandbox_url}"
        )
    return SandboxClient(reward.sandbox_url, token)
