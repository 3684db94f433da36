"""What the shell in a container is told. Pure."""

import shlex
from collections.abc import Mapping, Sequence

from tandem_sandbox.bundle import INPUT_FILE, WORK_FOLDER

READY = b"echo\n"
"""The shell answers with a line as soon as it is there."""


def build_script(command: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """Run the command with an environment of its own; the shell ends with its exit code.

    The shell stays the first process: a program that is the first one of its process namespace does not die of the
    signals that it sends itself. What the shell says of signals must not mix with the program's own words.
    """
    program = _build_program(command, environment)
    lines = [
        "exec 3>&2 2>/dev/null",
        f"cd {WORK_FOLDER} || exit 126",
        f"({program}) <{INPUT_FILE} 2>&3 3>&-",
        "exit $?",
        "",
    ]
    return "\n".join(lines).encode()


def build_talking_script(command: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """The same for a command that reads what is said to the shell from then on.

    It is one command to the shell, which has read all of it before the program starts: a shell that reads by the
    letter leaves nothing for the program, one that reads ahead takes nothing from it.
    """
    program = _build_program(command, environment)
    return f"{{ cd {WORK_FOLDER} && exec 3>&2 2>/dev/null && ({program}) 2>&3 3>&-; exit $?; }}\n".encode()


def _build_program(command: Sequence[str], environment: Mapping[str, str]) -> str:
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    # `exec`, or a name could be one of the shell's own commands.
    return " ".join([*settings, "exec", shlex.join(command)])
