"""Test cases by the names of their files, where init.yml does not list them. Pure."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tandem_core.errors import TandemError

# DMOJ's default: the last number is the case; one before it, after something that is no letter, the batch.
_NUMBERS = r"(?:(?:^|\W)(?P<batch>\d+)[^\d\s]+)?(?P<case>\d+)[^\d\s]*$"
INPUT_FORMAT = rf"^(?=.*?\.in|in).*?{_NUMBERS}"
OUTPUT_FORMAT = rf"^(?=.*?\.out|out).*?{_NUMBERS}"

type _Id = int | str


@dataclass(slots=True)
class _Pair:
    input: str | None = None
    output: str | None = None


@dataclass(slots=True)
class _Found:
    batched: bool
    pairs: dict[_Id, _Pair] = field(default_factory=lambda: defaultdict(_Pair))


def match_cases(names: Sequence[str], input_format: str, output_format: str) -> list[Mapping[str, object]]:
    """What a list of test cases in init.yml would say, without points. Raises TandemError."""
    found: dict[_Id, _Found] = {}
    for kind, expression in (("input", input_format), ("output", output_format)):
        pattern = _compile(expression)
        for name in names:
            match = pattern.match(name)
            if match is None:
                continue
            groups = match.groupdict()
            case, batch = _identify(groups.get("case")), _identify(groups.get("batch"))
            if case is None:
                raise TandemError(f"the format {expression} gives {name} no case number: name a group ?P<case>")
            group = found.setdefault(case if batch is None else batch, _Found(batched=batch is not None))
            group.batched |= batch is not None
            setattr(group.pairs[case], kind, name)
    return [_describe(number, found[number]) for number in sorted(found, key=_order)]


def _describe(number: _Id, group: _Found) -> Mapping[str, object]:
    for pair in group.pairs.values():
        if pair.output is None:
            raise TandemError(f"test case {pair.input} has no file with its output: name one like its input")
    cases = [
        {"in": pair.input, "out": pair.output}
        for _, pair in sorted(group.pairs.items(), key=lambda item: _order(item[0]))
    ]
    if group.batched:
        return {"batched": cases}
    if len(cases) > 1:
        raise TandemError(f"several test cases have the number {number}: {cases}")
    return cases[0]


def _compile(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.IGNORECASE)
    except re.error as error:
        raise TandemError(f"the format {expression!r} of init.yml is no regular expression: {error}") from error


def _identify(text: str | None) -> _Id | None:
    return int(text) if text is not None and text.isdecimal() else text


def _order(number: _Id) -> tuple[bool, int, str]:
    """Names before numbers, as DMOJ has them."""
    return (True, number, "") if isinstance(number, int) else (False, 0, number)
