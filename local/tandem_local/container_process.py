"""One run of a container's command: a process of its own session, with all its descendants in its grip."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tandem_local.container_init import END_ALL

RUN_VARIABLE = "TANDEM_RUN_ID"
"""In the environment of every process of a run: `tandem stop` finds what is left over by it."""
CONTAINER_VARIABLE = "TANDEM_CONTAINER"
"""<pod>/<container>."""

_INIT_PROGRAM = Path(__file__).with_name("container_init.py")
_INHERITED = frozenset(
    [
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LOGNAME",
        "NO_COLOR",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPATH",
        "PYTHONPYCACHEPREFIX",
        "REQUESTS_CA_BUNDLE",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TERM",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ]
)
MACHINE_WIDE = ("HF_HOME", "VLLM_CACHE_ROOT")
"""Caches that all runs of a machine share, though on a cluster each pod has its own."""
_INHERITED_PREFIXES = ("CUDA_", "HF_", "LC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "TORCH_", "VLLM_")


@dataclass(frozen=True)
class Launch:
    """Everything needed to start a container's command."""

    command: Sequence[str]
    environment: Mapping[str, str]
    working_directory: Path
    log_file: Path


def inherited_environment(environment: Mapping[str, str], cache: Path) -> dict[str, str]:
    """What containers see of the variables of whoever typed `tandem run`: enough for the same Python, libraries,
    proxies and devices, and nothing else. Programs of the running Python's environment come first on PATH; `cache` is
    for what runs share."""
    kept = {
        name: value for name, value in environment.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    own = {
        "HF_HOME": environment.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface"),
        "VLLM_CACHE_ROOT": environment.get("VLLM_CACHE_ROOT") or str(cache / "vllm"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",  # or the last lines before a crash are missing in the log
    }
    return kept | own


class ContainerProcess:
    """A started container; `start` makes one. To be started from the main thread (see container_init)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, launch: Launch) -> Self:
        """Start the command; a program that does not exist ends with code 127 and says so in the log."""
        launch.log_file.parent.mkdir(parents=True, exist_ok=True)
        with launch.log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_INIT_PROGRAM), str(os.getpid()), *launch.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(launch.environment),
                cwd=launch.working_directory,
                start_new_session=True,
            )
        return cls(process)

    @property
    def pid(self) -> int:
        """The process id of the container's process 1; its session has the same number."""
        return self._process.pid

    async def wait(self) -> int:
        """The exit code; 128 + n where signal n ended it. All its descendants have ended, too."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    @property
    def init_was_killed(self) -> bool:
        """Whether somebody ended process 1 itself, so that descendants may be left."""
        return self._process.returncode is not None and self._process.returncode < 0

    def terminate(self) -> None:
        """Ask the main process to end (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def end_all(self) -> None:
        """End the main process and all its descendants now."""
        self._signal(END_ALL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
