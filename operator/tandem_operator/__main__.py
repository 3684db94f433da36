"""`python -m tandem_operator`."""

import gc
import sys

import structlog
import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError
from tandem_core.errors import TandemError
from tandem_core.logs import configure_logs

from tandem_operator.program import run_operator
from tandem_operator.settings import OperatorSettings

log = structlog.get_logger()

GARBAGE_THRESHOLD = 50_000
"""New objects until the collector looks at them: with the default, 700, it mostly walks over what is known of a
thousand jobs."""


def main() -> int:
    """Exit code: 0 after SIGTERM; 1 if it is to be started again; 2 for settings that do not fit."""
    configure_logs(part="operator")
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        settings = OperatorSettings.read(sys.argv[1:])
    except (ValidationError, SettingsError) as error:
        print(f"{error}\nSee python -m tandem_operator --help.", file=sys.stderr)
        return 2
    failures: list[str] = []
    try:
        uvloop.run(run_operator(settings))
    except* TandemError as errors:
        failures = [str(each) for each in errors.exceptions]
    for failure in failures:
        log.error("the operator ends, to be started again", error=failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
