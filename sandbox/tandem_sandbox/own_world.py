"""The service's own mount and process namespaces: the kernel takes all they hold away when the service ends."""

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tandem_sandbox.mounts import MountFlag, mount, unmount

_PR_SET_PDEATHSIG = 1
_HYBRID_V2 = Path("/sys/fs/cgroup/unified")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_in_own_world(serve: Callable[[], int], clean: Callable[[], None]) -> int:
    """Call `serve` in new namespaces; returns what it returns, or 128 plus the signal that ended it.

    Three processes: this one waits outside and calls `clean` at the end; the first process inside ends orphans, and
    takes every container with it when it ends; the service is its child. Each ends with its parent, even by SIGKILL.
    """
    parent = os.getpid()
    os.unshare(os.CLONE_NEWNS | os.CLONE_NEWPID)
    first = os.fork()
    if first == 0:
        end_with_parent()
        # Outside it was only visible by another number; 0 stands for a parent of another namespace that is alive.
        os._exit(_be_first(serve) if _alive(parent) else 1)
    code = _wait_forwarding(first)
    clean()
    return code


def _alive(parent: int) -> bool:
    """Whether the parent had not ended before we asked to end with it."""
    return Path(f"/proc/{parent}").exists()


def _be_first(serve: Callable[[], int]) -> int:
    mount("none", Path("/"), "", MountFlag.RECURSIVE | MountFlag.PRIVATE)
    mount("proc", Path("/proc"), "proc", MountFlag(0))
    if _HYBRID_V2.is_mount():
        unmount(_HYBRID_V2)  # crun refuses hybrid layouts; what it does not see does not bother it
    child = os.fork()
    if child == 0:
        end_with_parent()
        os._exit(serve())
    return _wait_forwarding(child)


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process the signal when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _wait_forwarding(child: int) -> int:
    """Hand signals on to the child, and wait for it; other children are orphans, which end here unseen."""

    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in _SIGNALS:
        signal.signal(number, forward)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
