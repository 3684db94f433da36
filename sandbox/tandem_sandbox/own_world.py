"""The service's own namespaces: the kernel takes all that they hold away when the service ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tandem_core.errors import TandemError

from tandem_sandbox.mounts import SAFE, MountFlag, find_read_only, mount

_PR_SET_PDEATHSIG = 1
_HYBRID_V2 = Path("/sys/fs/cgroup/unified")
_PROC_IS_COVERED = (
    "parts of /proc are covered here, as in most containers, and then only root may have a new one: start the sandbox "
    "outside, or in a pod with `hostUsers: false` and `procMount: Unmasked`"
)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def enter_own_mounts() -> None:
    """Move this process into a new mount namespace, in which it may write control groups. Raises OSError.

    In a pod they are shown read-only, to programs that may not change that.
    """
    os.unshare(os.CLONE_NEWNS)
    mount("none", Path("/"), "", MountFlag.RECURSIVE | MountFlag.PRIVATE)
    for place in find_read_only(Path("/proc/self/mountinfo").read_text(), ("cgroup", "cgroup2")):
        mount("none", place, "", SAFE | MountFlag.NO_PROGRAMS | MountFlag.REMOUNT | MountFlag.BIND)


def enter_own_users() -> None:
    """Move this process, of an ordinary user, into new user and mount namespaces, as their root. Raises TandemError.

    To all others it stays the user that it is.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        mount("none", Path("/"), "", MountFlag.RECURSIVE | MountFlag.PRIVATE)
    except OSError as error:
        raise TandemError(
            f"user {user} may not make user namespaces ({error}): let it (sysctl user.max_user_namespaces above 0, "
            "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, where known) "
            "or start the sandbox as root without --unprivileged"
        ) from error


def run_in_own_world(serve: Callable[[], int], clean: Callable[[], None]) -> int:
    """Call `serve` in a new process namespace; returns what it returns, or 128 plus the signal that ended it.

    Three processes: this one waits outside and calls `clean` at the end; the first process inside ends orphans, and
    takes every container with it when it ends; the service is its child. Each ends with its parent, even by SIGKILL.
    """
    parent = os.getpid()
    os.unshare(os.CLONE_NEWPID)
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
    # Not for the process outside, whose number this /proc does not have: `kubectl exec` shows what it sees.
    os.unshare(os.CLONE_NEWNS)
    try:
        mount("proc", Path("/proc"), "proc", MountFlag(0))
    except PermissionError as error:
        print(f"the sandbox cannot start: {error}; {_PROC_IS_COVERED}", file=sys.stderr)
        return 1
    if _HYBRID_V2.is_mount():  # crun refuses hybrid layouts; what it does not see does not bother it
        mount("tmpfs", _HYBRID_V2, "tmpfs", SAFE)
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
