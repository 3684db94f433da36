"""Reads a problem in the format of DMOJ: a folder with init.yml."""

import itertools
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tandem_core.errors import TandemError

from tandem_sandbox.dmoj.case_names import INPUT_FORMAT, OUTPUT_FORMAT, match_cases
from tandem_sandbox.dmoj.data_files import DataFiles

_DEFAULTS: Mapping[str, Any] = {"points": 1, "output_limit_length": 25_165_824, "checker": "standard"}
_REFUSED = {
    "interactive": "it is interactive: program and judge would have to talk, and here a program only gets its input",
    "custom_judge": "it has a judge of its own (custom_judge), which often is interactive",
    "signature_grader": "it is graded by a function's signature (signature_grader), which is linked with the program",
}


@dataclass(frozen=True, slots=True)
class CheckerChoice:
    """Which checker, and its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A test case."""

    number: int
    """From 1, as it is shown."""
    input: str | None
    """Name of its input; None: it has none."""
    output: str | None
    """Name of the expected output; None: nothing is expected."""
    points: float
    checker: CheckerChoice
    output_bytes: int
    """Most that the program may write."""
    binary: bool
    """Whether its files are taken as they are."""


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that are judged one after the other."""

    batch: int | None
    """Number of the batch; None: each case stands alone."""
    cases: tuple[Case, ...]
    dependencies: frozenset[int] = frozenset()
    """Batches that must have passed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem."""

    name: str
    files: DataFiles
    groups: tuple[Group, ...]


def load_problem(folder: Path) -> Problem:
    """Raises TandemError if it is no problem, or one that cannot be judged here: it says why."""
    root = _read_init(folder)
    for key, reason in _REFUSED.items():
        if key in root:
            raise TandemError(f"{folder.name} cannot be judged here: {reason}")
    files = DataFiles(folder, _name(root.get("archive")))
    try:
        groups = _read_groups(root, files)
    except (TypeError, ValueError, AttributeError) as error:
        raise TandemError(f"{folder}/init.yml has a value of the wrong kind: {error}") from error
    if not groups:
        raise TandemError(f"{folder}/init.yml has no test case, and no file is named like one")
    return Problem(folder.resolve().name, files, tuple(_join(groups)))


def _read_groups(root: dict[str, Any], files: DataFiles) -> list[Group]:
    numbers, batches = itertools.count(1), itertools.count(1)
    settings = ChainMap(root, dict(_DEFAULTS))
    # DMOJ runs pretests first; they give no points, and a failed one ends it.
    pretests = [
        _read_entry(_checked(entry), settings, numbers, batches, points=0.0)
        for entry in root.get("pretest_test_cases") or ()
    ]
    return pretests + [_read_entry(_checked(entry), settings, numbers, batches) for entry in _find_cases(root, files)]


def _name(given: Any) -> str | None:
    """A file's name; YAML takes some for numbers."""
    return None if given is None else str(given)


def _read_init(folder: Path) -> dict[str, Any]:
    file = folder / "init.yml"
    try:
        root = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise TandemError(f"{folder} is no DMOJ problem: {error}") from error
    except yaml.YAMLError as error:
        raise TandemError(f"{file} is no YAML: {error}") from error
    if not isinstance(root, dict):
        raise TandemError(f"{file} must hold a mapping, with test_cases or archive at least")
    return root


def _find_cases(root: Mapping[str, Any], files: DataFiles) -> Sequence[Any]:
    given = root.get("test_cases")
    if isinstance(given, list):
        return given
    if given is not None and not isinstance(given, dict):
        raise TandemError("test_cases of init.yml must be a list, or a mapping with input_format and output_format")
    formats = given or {}
    found = match_cases(
        files.names, formats.get("input_format") or INPUT_FORMAT, formats.get("output_format") or OUTPUT_FORMAT
    )
    points = formats.get("case_points")
    if points is None:
        return found
    if len(points) < len(found):
        raise TandemError(f"case_points of init.yml has {len(points)} numbers for {len(found)} cases and batches")
    return [{**entry, "points": each} for entry, each in zip(found, points, strict=False)]


def _checked(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise TandemError(f"a test case of init.yml must be a mapping like {{in: 1.in, out: 1.out}}, not {entry!r}")
    for key in entry:
        if str(key).endswith(("++", ">")):
            raise TandemError(
                f"init.yml computes {key} with a program of its own, which is not done here: write it out"
            )
    return entry


def _read_entry(
    entry: dict[str, Any],
    settings: ChainMap[str, Any],
    numbers: Iterator[int],
    batches: Iterator[int],
    points: float | None = None,
) -> Group:
    """A batch, or a group of one case. What an entry does not say is looked up in what encloses it."""
    own = settings.new_child(entry)
    if "batched" not in entry:
        return Group(None, (_read_case(own, next(numbers), points),))
    number = next(batches)
    inner = [_checked(each) for each in entry["batched"] or ()]
    if any("batched" in each for each in inner):
        raise TandemError(f"batch {number} of init.yml has a batch in it, which cannot be")
    dependencies = frozenset(own.get("dependencies") or ())
    if not all(isinstance(each, int) and 1 <= each < number for each in dependencies):
        raise TandemError(
            f"dependencies of batch {number} must be numbers of earlier batches, not {sorted(dependencies)}"
        )
    cases = tuple(_read_case(own.new_child(each), next(numbers), points) for each in inner)
    return Group(number, cases, dependencies)


def _read_case(settings: Mapping[str, Any], number: int, points: float | None) -> Case:
    if settings.get("generator") and not settings.get("in"):
        raise TandemError(
            f"test case {number} is made by the generator {settings['generator']!r}, which is not run here: make its "
            "files once, and name them with in and out"
        )
    worth = settings["points"] if points is None else points
    if isinstance(worth, bool) or not isinstance(worth, int | float) or worth < 0:
        raise TandemError(f"points of test case {number} must be a number from 0, not {worth!r}")
    return Case(
        number=number,
        input=_name(settings.get("in")),
        output=_name(settings.get("out")),
        points=float(worth),
        checker=_read_checker(settings["checker"] or "standard"),
        output_bytes=int(settings["output_limit_length"]),
        binary=bool(settings.get("binary_data")),
    )


def _read_checker(given: Any) -> CheckerChoice:
    if isinstance(given, str):
        return CheckerChoice(given, {})
    if isinstance(given, dict) and isinstance(given.get("name"), str):
        return CheckerChoice(given["name"], given.get("args") or {})
    raise TandemError(f"a checker of init.yml must be a name, or a mapping with name and args, not {given!r}")


def _join(groups: Sequence[Group]) -> Iterator[Group]:
    """Neighbouring cases that stand alone become one group."""
    for alone, part in itertools.groupby(groups, key=lambda group: group.batch is None):
        if alone:
            yield Group(None, tuple(case for group in part for case in group.cases))
        else:
            yield from part
