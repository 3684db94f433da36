"""Printing the logs of several containers at a time."""

import subprocess
from collections.abc import Sequence


def print_logs(commands: Sequence[Sequence[str]]) -> int:
    """Run `kubectl logs` for each, all at the same time, until all have ended; the worst exit code.

    They print for themselves, a line in one piece. Ctrl-C reaches them as it does this process.
    """
    processes = [subprocess.Popen(command) for command in commands]  # noqa: S603 - the user's own kubectl
    try:
        return max((process.wait() for process in processes), default=0)
    except KeyboardInterrupt:
        return 130
    finally:
        for process in processes:
            process.terminate()
            process.wait()
