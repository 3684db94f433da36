"""`python -m tandem_operator`."""

import asyncio
import sys

import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError
from tandem_core.errors import TandemError
from tandem_core.logs import configure_logs

from tandem_operator.program import run_operator
from tandem_operator.settings import OperatorSettings

log = structlog.get_logger()


def main() -> int:
    """Exit code: 0 after SIGTERM; 1 if it is to be started again; 2 for settings that do not fit."""
    configure_logs(part="operator")
    try:
        settings = OperatorSettings.read(sys.argv[1:])
    except (ValidationError, SettingsError) as error:
        print(f"{error}\nSee python -m tandem_operator --help.", file=sys.stderr)
        return 2
    failures: list[str] = []
    try:
        asyncio.run(run_operator(settings))
    except* TandemError as errors:
        failures = [str(each) for each in errors.exceptions]
    for failure in failures:
        log.error("the operator ends, to be started again", error=failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
