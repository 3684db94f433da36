"""The process between the checkpoint engine and vLLM: it starts engines, is their parent, and cleans up behind them.

With --preload it imports vLLM once and forks each engine, which saves the imports: an engine of a small model is
ready in 3 seconds instead of 20. Without it each engine is a fresh process. Either way an engine is a session of its
own, and nothing of it outlives it, this process, or the checkpoint engine:

- the engine's server gets SIGKILL when this process dies;
- when the server ends, for whatever reason, everything it started is killed and waited for (this process adopts what
  is orphaned), so its memory is free when the end is reported;
- when the checkpoint engine dies, the channel to it closes: the engine is killed, its files are removed.

It speaks JSON lines over a socket. Requests: {"start": [argument, ...]}, {"signal": number}. Events: {"event":
"ready"}, {"event": "started", "pid": p}, {"event": "ended", "pid": p, "status": s} (negative: ended by that signal).
"""

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from tandem_sidecar.sweep import sweep_engine_files

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_PRELOADED = (
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "tandem_sidecar.vllm_extension",
)


def main() -> None:
    """Serve the checkpoint engine at the other end of --channel until it closes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channel", type=int, required=True, help="file descriptor of the socket")
    parser.add_argument("--scratch", type=Path, required=True, help="the engines' TMPDIR")
    parser.add_argument("--preload", type=Path, help="import vLLM and what this model directory needs once, and fork")
    options = parser.parse_args()
    _control_process(_PR_SET_CHILD_SUBREAPER, 1)
    channel = socket.socket(fileno=options.channel)
    if options.preload:
        _preload(options.preload)
    Launcher(channel, _run_forked if options.preload else _run_fresh, options.scratch).serve()
    shutil.rmtree(options.scratch, ignore_errors=True)


class Launcher:
    """At most one engine at a time."""

    def __init__(self, channel: socket.socket, run: Callable[[Sequence[str]], None], scratch: Path) -> None:
        self._channel = channel
        self._partial = b""
        self._run = run
        self._scratch = scratch
        self._selector = selectors.DefaultSelector()
        self._engine: int | None = None
        self._descriptor = -1
        self._started_at = 0.0

    def serve(self) -> None:
        """Answer requests until the channel closes; then end the engine and return."""
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._report({"event": "ready"})
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._channel:
                    self._finish()
                elif not self._answer():
                    self._abandon()
                    return

    def _answer(self) -> bool:
        """Carry out the requests that have arrived; False when the channel is closed."""
        try:
            received = self._channel.recv(65536)
        except OSError:
            return False
        *lines, self._partial = (self._partial + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "start" in request:
                self._start(request["start"])
            elif self._engine is not None:
                os.killpg(self._engine, request["signal"])  # not yet waited for, so the number is still its own
        return bool(received)

    def _start(self, arguments: Sequence[str]) -> None:
        if self._engine is not None:
            raise RuntimeError(f"engine {self._engine} still runs: end it first")
        self._started_at = time.time()
        launcher = os.getpid()
        process = os.fork()
        if process == 0:
            self._become_engine(launcher, arguments)
        self._engine = process
        self._descriptor = os.pidfd_open(process)
        self._selector.register(self._descriptor, selectors.EVENT_READ)
        self._report({"event": "started", "pid": process})

    def _become_engine(self, launcher: int, arguments: Sequence[str]) -> None:
        """In the forked process: never returns."""
        status = 1
        try:
            os.setsid()
            _control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:
                os._exit(1)  # the launcher died before it could be followed
            signal.set_wakeup_fd(-1)
            self._selector.close()
            self._channel.close()
            self._run(arguments)
            status = 0
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _finish(self) -> None:
        """The engine's server has ended: end the rest of it, and report."""
        engine = self._engine
        if engine is None:
            return
        self._selector.unregister(self._descriptor)
        os.close(self._descriptor)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine, signal.SIGKILL)
        status = self._wait_for_all(engine)
        self._engine = None
        sweep_engine_files(self._scratch, self._started_at)
        self._report({"event": "ended", "pid": engine, "status": status})

    def _wait_for_all(self, engine: int) -> int:
        """The server's status, once it and all that it left behind are gone. What left the engine's process group
        becomes a child of this process when its parent ends."""
        status = 0
        while True:
            for child in psutil.Process().children():
                if child.pid != engine:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
            try:
                process, wait_status = os.waitpid(-1, 0)
            except ChildProcessError:
                return status
            if process == engine:
                status = os.waitstatus_to_exitcode(wait_status)

    def _abandon(self) -> None:
        if self._engine is not None:
            os.killpg(self._engine, signal.SIGKILL)
            self._finish()

    def _report(self, event: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # the checkpoint engine is gone: the closed channel ends this process
            self._channel.sendall(json.dumps(event).encode() + b"\n")


def _preload(model_directory: Path) -> None:
    for module in _PRELOADED:
        importlib.import_module(module)
    _register_model_classes(model_directory)
    _fork_engine_core()
    gc.collect()
    gc.freeze()  # the collector would otherwise write to, and so copy, every page that is shared with the forks


def _register_model_classes(model_directory: Path) -> None:
    """Import the model's class. vLLM inspects a class that it has not imported in a fresh process, to keep CUDA out of
    its own: 8 to 14 seconds for what is of no use here."""
    registry = importlib.import_module("vllm.model_executor.models.registry").ModelRegistry
    for architecture in json.loads((model_directory / "config.json").read_text()).get("architectures", []):
        registered = registry.models.get(architecture)
        if registered is not None:
            registry.register_model(architecture, registered.load_model_cls())


def _fork_engine_core() -> None:
    """Let the server fork its engine process too. vLLM spawns it on CPUs, which would import everything again;
    forking is safe there as nothing has started threads yet."""
    import multiprocessing

    system = importlib.import_module("vllm.utils.system_utils")
    original = system.get_mp_context
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm") and getattr(module, "get_mp_context", None) is original:
            module.get_mp_context = lambda: multiprocessing.get_context("fork")  # type: ignore[attr-defined]


def _run_forked(arguments: Sequence[str]) -> None:
    sys.argv = ["vllm", *arguments]
    importlib.import_module("vllm.entrypoints.launchers.api_server.entry").main()


def _run_fresh(arguments: Sequence[str]) -> None:
    # The module and not the command `vllm`: that looks for a distribution named vllm, which the CPU build is not.
    os.execv(sys.executable, [sys.executable, "-m", _SERVER_MODULE, *arguments])  # noqa: S606 - our own arguments


def _control_process(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


if __name__ == "__main__":
    main()
