"""Problems in the format of DMOJ: what is read, how outputs are checked, what cases are worth."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import RunResult, Verdict
from tandem_sandbox.dmoj.asking import read_failure
from tandem_sandbox.dmoj.bridged import join_headers, read_answer
from tandem_sandbox.dmoj.case_names import INPUT_FORMAT, OUTPUT_FORMAT, match_cases
from tandem_sandbox.dmoj.checks import check
from tandem_sandbox.dmoj.data_files import normalize
from tandem_sandbox.dmoj.problem import Case, Problem, load_problem
from tandem_sandbox.dmoj.scoring import Code, Graded, Line, grade, sum_points, sum_up

SUBTASKS = """
archive: tests.zip
checker: {name: floats, args: {precision: 3}}
pretest_test_cases:
- {in: sample.in, out: sample.out}
test_cases:
- {in: alone.in, out: alone.out, points: 5}
- batched:
  - {in: small1.in, out: small1.out}
  - {in: small2.in, out: small2.out, checker: identical}
  points: 30
- points: 65
  dependencies: [1]
  output_limit_length: 100
  batched:
  - {in: big1.in, out: big1.out}
"""


def write_problem(folder: Path, init: str, archive: Mapping[str, str] | None = None, **files: str) -> Path:
    (folder / "init.yml").write_text(init)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    if archive is not None:
        with zipfile.ZipFile(folder / "tests.zip", "w") as file:
            for name, text in archive.items():
                file.writestr(name, text)
    return folder


def test_batches_pretests_and_what_they_inherit(tmp_path: Path) -> None:
    problem = load_problem(write_problem(tmp_path, SUBTASKS, {}))
    assert [(group.batch, len(group.cases), set(group.dependencies)) for group in problem.groups] == [
        (None, 2, set()),
        (1, 2, set()),
        (2, 1, {1}),
    ]
    cases = [case for group in problem.groups for case in group.cases]
    assert [case.number for case in cases] == [1, 2, 3, 4, 5]
    assert [case.points for case in cases] == [0, 5, 30, 30, 65]
    assert [case.checker.name for case in cases] == ["floats", "floats", "floats", "identical", "floats"]
    assert cases[0].checker.arguments == {"precision": 3}
    assert [case.output_bytes for case in cases[-2:]] == [25165824, 100]


def test_files_are_found_in_the_folder_and_in_the_archive(tmp_path: Path) -> None:
    problem = load_problem(
        write_problem(tmp_path, "archive: tests.zip\ntest_cases: [{in: a.in, out: b.out}]", {"b.out": "2"}, a_in="1")
    )
    assert (problem.files.read("a.in"), problem.files.read("b.out")) == (b"1", b"2")
    with pytest.raises(TandemError, match=r"no file c\.out"):
        problem.files.read("c.out")
    with pytest.raises(TandemError, match="below the problem's folder"):
        problem.files.read("../outside")


def test_lines_end_with_a_line_feed_unless_data_is_binary() -> None:
    assert normalize(b"a\r\nb\rc", binary=False) == b"a\nb\nc\n"
    assert normalize(b"a\r\nb\rc", binary=True) == b"a\r\nb\rc"
    assert normalize(b"", binary=False) == b""


def test_unlisted_cases_are_found_by_their_names() -> None:
    names = [
        "readme.txt",
        "sum.10.in",
        "sum.10.out",
        "sum.9.in",
        "sum.9.out",
        "g2-1.in",
        "g2-1.out",
        "g2-2.in",
        "g2-2.OUT",
    ]
    assert match_cases(names[:5], INPUT_FORMAT, OUTPUT_FORMAT) == [
        {"in": "sum.9.in", "out": "sum.9.out"},
        {"in": "sum.10.in", "out": "sum.10.out"},
    ]
    names += ["2-1.in", "2-1.out", "2-2.in", "2-2.out"]
    assert match_cases(names[-4:], INPUT_FORMAT, OUTPUT_FORMAT) == [
        {"batched": [{"in": "2-1.in", "out": "2-1.out"}, {"in": "2-2.in", "out": "2-2.out"}]}
    ]
    formats = r"(?P<batch>\w+)-(?P<case>\d+)\.in", r"(?P<batch>\w+)-(?P<case>\d+)\.out"
    assert match_cases(["easy-1.in", "easy-1.out"], *formats) == [
        {"batched": [{"in": "easy-1.in", "out": "easy-1.out"}]}
    ]
    assert match_cases(["input1.txt", "output1.txt"], INPUT_FORMAT, OUTPUT_FORMAT) == [
        {"in": "input1.txt", "out": "output1.txt"}
    ]


def test_an_archive_alone_is_a_problem_and_case_points_are_taken_in_order(tmp_path: Path) -> None:
    data = {"1.in": "", "1.out": "", "2.in": "", "2.out": ""}
    problem = load_problem(write_problem(tmp_path, "archive: tests.zip\npoints: 7", data))
    assert [case.points for case in problem.groups[0].cases] == [7, 7]
    formats = r"test_cases: {input_format: '(?P<case>\d)\.in', output_format: '(?P<case>\d)\.out', case_points: [3, 4]}"
    problem = load_problem(write_problem(tmp_path, f"archive: tests.zip\n{formats}", data))
    assert [(case.input, case.points) for case in problem.groups[0].cases] == [("1.in", 3), ("2.in", 4)]


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("interactive: {files: interact.cpp}\ntest_cases: [{in: 1.in}]", "interactive"),
        ("custom_judge: judge.py\ntest_cases: [{in: 1.in}]", "custom_judge"),
        ("signature_grader: {entry: a.c}\ntest_cases: [{in: 1.in}]", "signature_grader"),
        ("generator: gen.py\ntest_cases: [{generator_args: [1]}]", "name them with in and out"),
        ("test_cases: [{'in>': 'f()', out: 1.out}]", "write it out"),
        ("test_cases: [{batched: [{batched: []}]}]", "batch in it"),
        ("test_cases: [{batched: [{in: a}], dependencies: [1]}]", "earlier batches"),
        ("test_cases: [{in: a, points: -1}]", "points of test case 1"),
        ("test_cases: []", "no test case"),
        ("archive: none.zip", r"archive none\.zip"),
        ("archive: ../other.zip", "below the problem's folder"),
        ("'", "no YAML"),
        ("", "must hold a mapping"),
        ("test_cases: [1.in]", "must be a mapping"),
        ("test_cases: [{in: a, output_limit_length: much}]", "wrong kind"),
        ("test_cases: [{batched: 3}]", "wrong kind"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_a_reason(tmp_path: Path, init: str, words: str) -> None:
    with pytest.raises(TandemError, match=words):
        load_problem(write_problem(tmp_path, init))


def test_a_folder_without_init_is_no_problem(tmp_path: Path) -> None:
    with pytest.raises(TandemError, match="is no DMOJ problem"):
        load_problem(tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "output", "expected", "share"),
    [
        ("standard", {}, b"1  2 \n\n3", b"1 2\n3\n", 1),
        ("standard", {}, b"1 2 3", b"1 2\n3\n", 0),
        ("standard", {}, b"12", b"1 2", 0),
        ("identical", {}, b"1 2\n", b"1 2\n", 1),
        ("identical", {}, b"1 2", b"1 2\n", 0),
        ("rstripped", {}, b"1  \n2", b"1\n2", 1),
        ("rstripped", {}, b"1\n\n2", b"1\n2", 0),
        ("rstripped", {"filter_new_line": True}, b"1\n\n2", b"1\n2", 1),
        ("sorted", {}, b"b 1\na 2", b"a 2\nb 1", 1),
        ("sorted", {}, b"1 b\na 2", b"a 2\nb 1", 0),
        ("sorted", {"split_on": "whitespace"}, b"1 b\na 2", b"a 2\nb 1", 1),
        ("unordered", {}, b"2 1", b"1\n2", 1),
        ("easy", {}, b"B a", b"Ab", 1),
        ("easy", {}, b"aab", b"ab", 0),
        ("floats", {}, b"x 1000000.5", b"x 1000000", 1),
        ("floats", {}, b"y 1", b"x 1", 0),
        ("floats", {}, b"0.1 nan", b"0.1 nan", 0),
        ("floats", {}, b"1\n2", b"1 2", 0),
        ("floats", {"precision": 2}, b"0.005", b"0", 1),
        ("floatsabs", {}, b"1000000.5", b"1000000", 0),
        ("floatsrel", {}, b"0.0000001", b"0", 0),
        ("floatsrel", {"precision": 2}, b"101", b"100", 1),
        ("linecount", {}, b"1\n9\n3\n", b"1\n2\n3\n4\n", 0.5),
        ("linecount", {}, b"1\n2\n3", b"1\n2", 0),
        ("linematches", {"point_distribution": [1, 3]}, b"9\n2", b"1\n2", 0.75),
        ("linematches", {"point_distribution": [1, 3]}, b"1", b"1\n2", 0),
    ],
)
def test_checkers_compare_as_dmoj_says(
    name: str, arguments: dict[str, Any], output: bytes, expected: bytes, share: float
) -> None:
    assert check(name, arguments, output, expected).share == share


def test_identical_tells_of_white_space_alone() -> None:
    assert "whitespace" in check("identical", {}, b"1 2", b"1 2\n").feedback
    assert check("identical", {}, b"1 3", b"1 2\n").feedback == ""


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("checker.py", {}, "Python module"),
        ("standart", {}, "choose from standard"),
        ("floats", {"precisoin": 1}, "cannot be used with args"),
        ("floats", {"error_mode": "both"}, "must be default"),
        ("linematches", {}, "a number for each of the 2 lines"),
    ],
)
def test_checkers_that_there_are_not_are_named(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TandemError, match=words):
        check(name, arguments, b"1\n2", b"1\n2")


@pytest.mark.parametrize(
    ("exit_code", "stderr", "testlib", "share"),
    [
        (0, "", False, 1.0),
        (1, "", False, 0.0),
        (2, "", True, 0.0),
        (7, "points 4", True, 0.4),
        (2, "", False, None),
        (3, "", True, None),
        (7, "points 11", True, None),
        (7, "", True, None),
        (None, "", True, None),
    ],
)
def test_exit_codes_of_checkers_that_are_programs(
    exit_code: int | None, stderr: str, testlib: bool, share: float | None
) -> None:
    verdict = Verdict.TLE if exit_code is None else Verdict.RE if exit_code else Verdict.OK
    said = read_answer(RunResult(verdict=verdict, exit_code=exit_code, stderr=stderr), testlib=testlib, points=10)
    assert (said.share if said is not None else None) == share


def test_headers_of_a_checker_are_put_in_once() -> None:
    texts = {
        "check.cpp": '#include <cstdio>\n#include "lib.h"\n  # include "lib.h"\nint main() {}',
        "lib.h": '#include "no.h"\nint x;',
    }
    joined = join_headers("check.cpp", texts.__getitem__, list(texts))
    assert joined == '#include <cstdio>\n#include "no.h"\nint x;\n\nint main() {}'


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (RunResult(verdict=Verdict.OK, exit_code=0), None),
        (RunResult(verdict=Verdict.RE, exit_code=139), Code.RTE),
        (RunResult(verdict=Verdict.RE, exit_code=1), Code.IR),
        (RunResult(verdict=Verdict.TLE), Code.TLE),
        (RunResult(verdict=Verdict.OLE), Code.OLE),
    ],
)
def test_runs_that_went_wrong_have_dmojs_verdicts(result: RunResult, code: Code | None) -> None:
    assert read_failure(result) == code


async def graded(problem: Problem, failing: Mapping[int, float], *, short_circuit: bool = False) -> list[Line]:
    """All cases; the failing ones, by number, get so many points."""

    async def judge(case: Case) -> Graded:
        if case.number in failing:
            return Graded(Code.WA, passed=False, points=failing[case.number])
        return Graded(Code.AC, passed=True, points=case.points)

    return [line async for line in grade(problem, judge, short_circuit=short_circuit)]


def codes(lines: list[Line]) -> str:
    return " ".join(line.graded.code for line in lines)


DEPENDING = """
test_cases:
- batched: [{in: a}, {in: b}]
  points: 10
- batched: [{in: c}]
  points: 20
- batched: [{in: d}]
  points: 30
  dependencies: [1, 2]
- {in: e, points: 40}
"""


@pytest.mark.parametrize(
    ("failing", "expected", "points"),
    [
        ({}, "AC AC AC AC AC", 100),
        ({1: 0}, "WA SC AC SC AC", 60),
        ({2: 0}, "AC WA AC SC AC", 60),
        ({3: 0}, "AC AC WA SC AC", 50),
        ({4: 0}, "AC AC AC WA AC", 70),
        ({5: 8}, "AC AC AC AC WA", 68),
    ],
)
async def test_a_batch_ends_with_its_first_failure_and_takes_those_that_depend_on_it_along(
    tmp_path: Path, failing: dict[int, float], expected: str, points: float
) -> None:
    lines = await graded(load_problem(write_problem(tmp_path, DEPENDING)), failing)
    assert codes(lines) == expected
    score = sum_points(lines)
    assert (score.points, score.total) == (points, 100)
    assert sum_up(lines) == ("WA" if failing else "AC")


async def test_a_failed_case_without_points_or_the_site_ends_all(tmp_path: Path) -> None:
    init = "test_cases: [{in: a, points: 0}, {in: b, points: 1}, {batched: [{in: c}], points: 2}]"
    problem = load_problem(write_problem(tmp_path, init))
    assert codes(await graded(problem, {1: 0})) == "WA SC SC"
    assert codes(await graded(problem, {2: 0})) == "AC WA AC"
    assert codes(await graded(problem, {2: 0}, short_circuit=True)) == "AC WA SC"


async def test_a_failed_pretest_ends_all(tmp_path: Path) -> None:
    problem = load_problem(write_problem(tmp_path, SUBTASKS, {}))
    assert codes(await graded(problem, {1: 0})) == "WA SC SC SC SC"
    assert sum_points(await graded(problem, {})).points == 100


async def test_a_batch_is_worth_what_its_worst_case_gets(tmp_path: Path) -> None:
    init = "test_cases: [{batched: [{in: a}, {in: b}], points: 10}]"
    lines = await graded(load_problem(write_problem(tmp_path, init)), {2: 4})
    assert sum_points(lines).points == 4
