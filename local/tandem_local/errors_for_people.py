"""Running a command such that errors are for people."""

import sys

import typer
from tandem_core.errors import TandemError

BAD_INPUT = 2


def run_app(app: typer.Typer, name: str) -> None:
    """Run the command; what a user can mend is told in one message, without a traceback, and with exit code 2."""
    try:
        app(prog_name=name)
    except TandemError as error:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), (str(error), "red")), soft_wrap=True)
        sys.exit(BAD_INPUT)
