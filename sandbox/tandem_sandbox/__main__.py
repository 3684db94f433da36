"""The sandbox's program: `python -m tandem_sandbox`."""

import argparse
import fcntl
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem_core.errors import TandemError
from tandem_core.sandbox.deployment import SANDBOX_PORT

from tandem_sandbox.control_group import Groups
from tandem_sandbox.control_groups import ControlGroups, observe_hierarchies
from tandem_sandbox.own_world import end_with_parent, enter_own_mounts, enter_own_users, run_in_own_world
from tandem_sandbox.rlimit_groups import RlimitGroups
from tandem_sandbox.runtime import RUNTIMES
from tandem_sandbox.settings import Settings, default_home

_GONE_SECONDS = 5.0
_SOURCES = {
    "crun": "tools/set-up-sandbox, or apt-get install crun",
    "runc": "apt-get install runc",
    "runsc": "it is gVisor's, https://gvisor.dev/docs/user_guide/install",
}
_UNPRIVILEGED = (
    "run as an ordinary user, without control groups: memory and processor time of programs are looked at 20 times a "
    "second, processors are not limited (docs/sandbox.md)"
)


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    try:
        settings = _parse_settings()
        _check_machine(settings)
        with _only_one(settings.home):
            groups = _enter_own_mounts(settings)
            groups.remove_all()
            return run_in_own_world(lambda: _serve(settings, groups), lambda: _remove(groups))
    except (TandemError, OSError) as error:
        print(f"the sandbox cannot start: {error}", file=sys.stderr)
        return 1


def _enter_own_mounts(settings: Settings) -> Groups:
    """Returns what will hold the limits of programs. Raises TandemError, OSError."""
    if settings.unprivileged:
        enter_own_users()
        return RlimitGroups()
    enter_own_mounts()
    hierarchies = observe_hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    return ControlGroups(hierarchies, settings.group_name, settings.runtime_group_name, settings.runtime)


def _serve(settings: Settings, groups: Groups) -> int:
    # Imported here: the two processes that only wait need none of it.
    from tandem_sandbox.server import serve

    return serve(settings, groups)


def _remove(groups: Groups) -> None:
    groups.remove_all()


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tandem_sandbox", description="Runs and judges untrusted programs, in containers that are used once."
    )
    processors = len(os.sched_getaffinity(0))
    parser.add_argument("--home", type=Path, default=default_home(), help="folder with images (TANDEM_SANDBOX_HOME)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=SANDBOX_PORT, help="port to listen on")
    parser.add_argument("--metrics-port", type=int, default=0, help="port for /metrics without the token; 0: none")
    parser.add_argument("--token-file", type=Path, help="holds the bearer token; made at HOME/token if left out")
    parser.add_argument("--runtime", choices=RUNTIMES, default=RUNTIMES[0], help="program that makes containers")
    parser.add_argument("--unprivileged", action="store_true", help=_UNPRIVILEGED)
    parser.add_argument("--running", type=int, default=processors, help="containers that run at a time")
    parser.add_argument("--ahead", type=int, default=4 * processors, help="containers more that wait ready")
    parser.add_argument("--sessions", type=int, default=8, help="Jupyter sessions at a time, each in a container")
    parser.add_argument("--queued", type=int, default=256, help="requests at a time; more are told to come again")
    parser.add_argument("--request-seconds", type=float, default=600.0, help="longest time for one request")
    parser.add_argument("--no-host-image", action="store_true", help="do not offer this machine's /usr as image `host`")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started it ends")
    return parser


def _parse_settings() -> Settings:
    """From the command line. Raises TandemError."""
    given = build_parser().parse_args()
    if given.with_parent:
        end_with_parent(signal.SIGTERM)
    return Settings(
        home=given.home,
        host=given.host,
        port=given.port,
        metrics_port=given.metrics_port,
        token=_load_token(given.token_file, given.home),
        runtime=given.runtime,
        unprivileged=given.unprivileged,
        running=given.running,
        ahead=given.ahead,
        sessions=given.sessions,
        queued=given.queued,
        request_seconds=given.request_seconds,
        host_image=not given.no_host_image,
    )


def _load_token(file: Path | None, home: Path) -> str:
    """The token in the file, or in HOME/token, which is made if it is not there. Raises TandemError."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        if file is None:
            file = home / "token"
            if not file.exists():
                file.touch(mode=0o600)
                file.write_text(secrets.token_urlsafe(32))
        token = file.read_text().strip()
    except OSError as error:
        raise TandemError(f"cannot read the token: {error}") from error
    if not token:
        raise TandemError(f"{file} is empty: it must hold the bearer token that requests bring")
    return token


def _check_machine(settings: Settings) -> None:
    if settings.unprivileged and os.geteuid() == 0:
        raise TandemError("as root leave --unprivileged out: the kernel counts no processes of root, and limits none")
    if settings.unprivileged and settings.runtime != RUNTIMES[0]:
        raise TandemError(f"--unprivileged goes with --runtime {RUNTIMES[0]} only, found {settings.runtime}")
    if not settings.unprivileged and os.geteuid() != 0:
        raise TandemError(
            "control groups are for root: start it as root, or with --unprivileged, which holds memory and time of "
            "programs less exactly"
        )
    if shutil.which(settings.runtime) is None:
        raise TandemError(f"{settings.runtime} is not installed: {_SOURCES[settings.runtime]}")


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Raises TandemError if another service has this home; one that was killed needs a moment to be gone."""
    deadline = time.monotonic() + _GONE_SECONDS
    with (home / "lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TandemError(
                        f"another sandbox has the home {home}: stop it, or choose another --home"
                    ) from None
                time.sleep(0.05)
            else:
                break
        yield


if __name__ == "__main__":
    sys.exit(main())
