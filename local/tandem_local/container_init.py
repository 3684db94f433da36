"""Process 1 of a local container; run as a program of its own: `python -I -S container_init.py RUNNER_PID COMMAND...`.

It does for a local container what the kernel's PID namespace does on a cluster: when the main process ends, for
whatever reason, everything it started ends too, in whatever session it is. It becomes the new parent of orphans
(PR_SET_CHILD_SUBREAPER), so its descendants are all there is to end. When the runner dies, even by SIGKILL, the
kernel sends it END_ALL (PR_SET_PDEATHSIG, which goes by the parent *thread*: the runner starts containers from its
main thread only).

Signals: SIGTERM goes on to the main process, END_ALL (SIGUSR1) kills everything at once.
It exits with the main process's exit code, 128 + n if signal n ended it. Standard library only: it starts in 20 ms.

On a cluster /dev/shm goes with the pod. Here segments that killed processes leave there are removed, too.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time

END_ALL = signal.SIGUSR1

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_NOT_FOUND = 127
_WAITED_FOR = {signal.SIGTERM, END_ALL, signal.SIGCHLD}
_END_SECONDS = 10.0
_TRACKER_SECONDS = 1.0
_TRACKER = b"multiprocessing.resource_tracker"
"""Python's resource tracker: it removes the segments of the process that started it, once that one has ended."""

_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - where the kernel keeps them
_SEGMENT_PREFIXES = ("psm_", "sem.mp-", "torch_", "nccl-")
"""Names that multiprocessing, PyTorch and NCCL give to their segments and semaphores."""


def main(arguments: list[str]) -> int:
    """Run the command after the runner's process id; returns its exit code."""
    runner_pid, command = int(arguments[0]), arguments[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, END_ALL)
    if os.getppid() != runner_pid:  # it died before the line above
        return 1
    main_process = _start(command)
    code = _wait(main_process)
    _end_descendants()
    return code


def _start(command: list[str]) -> int:
    process = os.fork()
    if process:
        return process
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that would be inherited
    try:
        os.execvp(command[0], command)  # noqa: S606 - a shell would be one process more
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(_NOT_FOUND)


def _wait(main_process: int) -> int:
    """The main process's exit code; adopted orphans that end meanwhile are reaped."""
    while True:
        received = signal.sigwait(_WAITED_FOR)
        if received == signal.SIGTERM:
            with contextlib.suppress(ProcessLookupError):
                os.kill(main_process, signal.SIGTERM)
        elif received == END_ALL:
            _end_descendants()
            return 128 + signal.SIGKILL
        for process, status in _reap():
            if process == main_process:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def _reap() -> list[tuple[int, int]]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                break
            ended.append((process, status))
    return ended


def _end_descendants() -> None:
    """Kill all descendants until there are none: one may fork while they are being counted."""
    began = time.monotonic()
    segments: set[str] = set()
    while (alive := descendants(os.getpid(), read_parents())) and time.monotonic() - began < _END_SECONDS:
        spared = _TRACKER if time.monotonic() - began < _TRACKER_SECONDS else None
        for process in alive:
            segments |= held_segments(process)
            if spared is None or spared not in _read(f"/proc/{process}/cmdline"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, 0.02)
        _reap()
    for path in segments:
        with contextlib.suppress(OSError):
            os.unlink(path)


def held_segments(process: int) -> set[str]:
    """Shared-memory segments of the machine's /dev/shm that the process has mapped."""
    names = (line.rpartition(b" ")[2].decode(errors="replace") for line in _read(f"/proc/{process}/maps").splitlines())
    prefixes = tuple(_SHARED_MEMORY + prefix for prefix in _SEGMENT_PREFIXES)
    return {name for name in names if name.startswith(prefixes)}


def read_parents() -> dict[int, int]:
    """The parent's process id of every process of this machine."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # The command name stands in parentheses and may hold any character.
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if fields:
                parents[int(name)] = int(fields[1])
    return parents


def descendants(ancestor: int, parents: dict[int, int]) -> set[int]:
    """Process ids of all descendants of `ancestor`, itself not included."""
    found: set[int] = set()
    newest = {ancestor}
    while newest:
        newest = {process for process, parent in parents.items() if parent in newest} - found
        found |= newest
    return found


def _read(path: str) -> bytes:
    """The file's content; nothing if the process is gone or not ours."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
