"""Checkers that are programs: DMOJ's `bridged`, in C, C++ or Python, with testlib if the problem brings it."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import File, Limits, RunRequest, RunResult, Source, Verdict

from tandem_sandbox.dmoj.checks import Checked
from tandem_sandbox.dmoj.data_files import DataFiles
from tandem_sandbox.dmoj.problem import Case
from tandem_sandbox.dmoj.source_names import find_language
from tandem_sandbox.runs import Runs

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[^\n]*$', re.MULTILINE)
_POINTS = re.compile(r"^points (\d+)$", re.MULTILINE)
_KNOWN = ("files", "lang", "type", "time_limit", "memory_limit", "feedback", "flags", "compiler_time_limit")
_RIGHT, _WRONG, _PRESENTATION, _PARTIAL = 0, 1, 2, 7


async def check_bridged(
    runs: Runs, files: DataFiles, case: Case, given: bytes, output: bytes, expected: bytes
) -> Checked:
    """Run the checker with the names of three files: input, output, expected answer. Raises TandemError if it fails."""
    arguments = case.checker.arguments
    kind = arguments.get("type", "default")
    if kind not in ("default", "testlib") or not set(arguments) <= set(_KNOWN):
        known = ", ".join(_KNOWN)
        raise TandemError(
            f"a bridged checker of type default or testlib is judged here, with args {known}: {arguments}"
        )
    contents = {"input": given, "output": output, "answer": expected}
    result = await runs.run(
        RunRequest(
            source=_build_source(files, arguments),
            arguments=tuple(contents),
            files={name: File.of(data) for name, data in contents.items()},
            limits=Limits(
                cpu_seconds=float(arguments.get("time_limit", 20)),
                memory_bytes=int(arguments.get("memory_limit", 524_288)) * 1024,
            ),
        )
    )
    checked = read_answer(result, testlib=kind == "testlib", points=case.points)
    if checked is None:
        raise TandemError(
            f"the checker failed at test case {case.number}: {result.verdict}, {result.detail} {result.stderr[-1000:]}"
        )
    return checked


def read_answer(result: RunResult, *, testlib: bool, points: float) -> Checked | None:
    """What the exit code says; None if the checker failed. testlib's may give a part of the points."""
    feedback = result.stdout.strip()
    if result.verdict not in (Verdict.OK, Verdict.RE):
        return None
    match result.exit_code:
        case code if code == _RIGHT:
            return Checked(True, 1.0, feedback)
        case code if code == _WRONG:
            return Checked(False, 0.0, feedback)
        case code if code == _PRESENTATION and testlib:
            return Checked(False, 0.0, feedback or "Presentation Error")
        case code if code == _PARTIAL and testlib:
            said = _POINTS.search(result.stderr)
            if said is None or not points or int(said[1]) > points:
                return None
            return Checked(True, int(said[1]) / points, feedback)
    return None


def _build_source(files: DataFiles, arguments: Mapping[str, Any]) -> Source:
    named = arguments.get("files")
    names = [named] if isinstance(named, str) else list(named or ())
    if not names:
        raise TandemError("a bridged checker of init.yml must name its files in args")
    language = find_language(names[0])
    if language in ("c", "cpp"):
        code = "".join(map(_build_define, arguments.get("flags") or ()))
        return Source(
            language=language,
            code=code + join_headers(names[0], lambda name: files.read(name).decode(errors="replace"), names),
        )
    if len(names) > 1:
        raise TandemError(f"a bridged checker of several files must be in C or C++, to be made one: {', '.join(names)}")
    return Source(language=language, code=files.read(names[0]).decode(errors="replace"))


def _build_define(flag: str) -> str:
    name, _, value = flag.removeprefix("-D").partition("=")
    if not flag.startswith("-D") or not name.isidentifier():
        raise TandemError(f"a bridged checker's flags may only be like -DNAME=VALUE here, not {flag}")
    return f"#define {name} {value or 1}\n"


def join_headers(name: str, read: Callable[[str], str], known: Sequence[str]) -> str:
    """One source text of a C or C++ program and the headers that come with it, each where it is included first."""
    put_in: set[str] = set()

    def expand(file: str) -> str:
        def replace(match: re.Match[str]) -> str:
            header = next((each for each in known if PurePosixPath(each).name == PurePosixPath(match[1]).name), None)
            if header is None:
                return match[0]
            if header in put_in:
                return ""
            put_in.add(header)
            return expand(header)

        return _INCLUDE.sub(replace, read(file))

    return expand(name)
