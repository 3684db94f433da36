"""Printing logs of a run, one or several, and following them."""

from pathlib import Path

from tandem_core.errors import TandemError

from tandem_local.log_files import LogFollower, read_tail
from tandem_local.process_table import is_alive
from tandem_local.run_directory import RunDirectory
from tandem_local.waiting import sleep_between_polls


def print_logs(run: RunDirectory, target: str | None, *, follow: bool, tail: int) -> None:
    """Print the last `tail` lines of the logs that `target` names, and go on until the run ends with `follow`.

    Raises TandemError that lists the logs there are if it names none.
    """
    paths = find_logs(run, target)
    prefixes = {path: f"{path.parent.name}/{path.stem} | " if len(paths) > 1 else "" for path in paths}
    followers = {path: LogFollower(path) for path in paths}
    for path in paths:
        for line in read_tail(path, tail):
            print(prefixes[path] + line)
    while follow:
        state = run.read_state()
        ended = state is None or not is_alive(state.runner)
        for path, follower in followers.items():
            for line in follower.read_lines():
                print(prefixes[path] + line, flush=True)
        if ended:
            return
        sleep_between_polls()


def find_logs(run: RunDirectory, target: str | None) -> list[Path]:
    """The log files of POD or POD/CONTAINER, or all; a unique beginning of a pod's name is enough."""
    paths = sorted(run.logs.glob("*/*.log"))
    if target is None:
        return paths
    pod, _, container = target.partition("/")
    exact = [path for path in paths if path.parent.name == pod]
    found = [
        path
        for path in (exact or [path for path in paths if path.parent.name.startswith(pod)])
        if not container or path.stem == container
    ]
    if not found:
        known = ", ".join(f"{path.parent.name}/{path.stem}" for path in paths) or "none yet"
        raise TandemError(f"run {run.name} has no log of {target}; there are: {known}")
    return found
