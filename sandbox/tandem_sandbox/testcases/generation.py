"""How a generator is run: a Python program in the sandbox, seeded, with CYaRon beside it where it is used."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import MEBIBYTE, File, Limits, RunRequest, RunResult, Source, Verdict

from tandem_sandbox.testcases.journal import Made
from tandem_sandbox.testcases.rules import Rules

_MOST_INPUT_BYTES = 8 * MEBIBYTE
_SHOWN = 2000
_FILE = "generator.py"
_START = f"""\
import random, runpy, sys
seed, case, cases = sys.argv[1:]
random.seed(f"{{seed}} {{case}}")
sys.argv = ["{_FILE}", case, cases]
runpy.run_path("{_FILE}", run_name="__main__")
"""
_IMPORTS_CYARON = re.compile(r"^\s*(from|import)\s+cyaron\b", re.MULTILINE)
_PACKAGES = ("cyaron", "xeger")  # CYaRon imports xeger for strings that match a pattern; its colours it can do without


def build_generation(code: str, rules: Rules, number: int) -> RunRequest:
    """Make input `number` of `rules.cases`: the program reads both from sys.argv, and writes the input to standard
    output. Python's random numbers, CYaRon's too, depend on the seed and the number. Raises TandemError."""
    files = {_FILE: File(text=code)}
    if _IMPORTS_CYARON.search(code):
        files |= load_cyaron()
    return RunRequest(
        source=Source(language="python", code=_START),
        arguments=(str(rules.seed), str(number), str(rules.cases)),
        environment={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        files=files,
        limits=Limits(cpu_seconds=rules.cpu_seconds, memory_bytes=rules.memory_bytes, output_bytes=_MOST_INPUT_BYTES),
    )


def read_generation(number: int, result: RunResult) -> Made:
    """What the run made, unless the sandbox failed at it."""
    if result.verdict != Verdict.OK:
        return Made(number=number, stdin=None, detail=describe_failure(result))
    if not result.stdout.strip():
        return Made(number=number, stdin=None, detail="it wrote nothing to standard output")
    return Made(number=number, stdin=result.stdout)


def describe_failure(result: RunResult) -> str:
    """Why a run is not OK, with the end of what it said."""
    return f"{result.verdict}: {result.detail}\n{result.stderr[-_SHOWN:]}".strip()


@cache
def load_cyaron() -> Mapping[str, File]:
    """The files of the installed package CYaRon, to lie beside a generator. Raises TandemError."""
    try:
        return dict(_read_files())
    except PackageNotFoundError as error:
        raise TandemError(
            f"a generator imports cyaron, and the package {error.name} is not installed: pip install cyaron"
        ) from error


def _read_files() -> Iterator[tuple[str, File]]:
    for package in _PACKAGES:
        for path in distribution(package).files or ():
            if path.parts[0] == package and path.suffix == ".py" and "tests" not in path.parts:
                yield path.as_posix(), File.of(path.read_binary())
