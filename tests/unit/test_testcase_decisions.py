"""Test-case generation without a sandbox: votes, decisions, journals, input files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import RunResult, Verdict
from tandem_sandbox.testcases.agreement import CHECKERS, find_agreed
from tandem_sandbox.testcases.author import read_code
from tandem_sandbox.testcases.decision import Decision, Drop, Loss, decide, find_distinct
from tandem_sandbox.testcases.generation import build_generation, read_generation
from tandem_sandbox.testcases.journal import Journal, Made, Step, Voted, Written
from tandem_sandbox.testcases.problems import check_generators, load_problems
from tandem_sandbox.testcases.report import Report
from tandem_sandbox.testcases.rules import Rules

RULES = Rules(cases=4)


@pytest.mark.parametrize(
    ("checker", "outputs", "expected", "agreeing"),
    [
        ("tokens", ["1", "2", "1 \n", None], "1", (0, 2)),
        ("exact", ["1 2", "1  2", "1  2\n"], "1  2", (1, 2)),
        ("tokens", ["1", "2", "2", "1"], "1", (0, 3)),
        ("floats", ["0.5", "0.50000001", "0.6"], "0.5", (0, 1)),
        ("tokens", ["", "", "x"], "", (0, 1)),
        ("tokens", [None, None], "", ()),
    ],
)
def test_the_output_that_most_give_is_the_right_one(
    checker: str, outputs: list[str | None], expected: str, agreeing: tuple[int, ...]
) -> None:
    assert find_agreed(CHECKERS[checker], outputs) == (expected, agreeing)


def made(inputs: Mapping[int, str | None]) -> dict[int, Made]:
    return {number: Made(number=number, stdin=stdin) for number, stdin in inputs.items()}


def voted(agreeing: Mapping[int, range | tuple[int, ...]]) -> dict[int, Voted]:
    return {
        number: Voted(number=number, expected="1", agreeing=tuple(places), verdicts=(Verdict.OK,) * 10)
        for number, places in agreeing.items()
    }


FOUR = made({1: "a", 2: "b", 3: "c", 4: "d"})


def test_seven_of_ten_keep_a_case_and_nine_of_ten_a_problem() -> None:
    keep = decide(RULES, FOUR, voted({1: range(10), 2: range(9), 3: range(9), 4: range(6)}))
    assert keep == Decision(None, "", (1, 2, 3), {Loss.DISAGREEMENT: 1}, tuple(range(9)))
    drop = decide(RULES, FOUR, voted({1: range(10), 2: range(9), 3: (0, 1, 2, 3, 4, 5, 6), 4: range(10)}))
    assert (drop.drop, drop.cases, drop.passing) == (Drop.PASSING, (1, 2, 3, 4), tuple(range(7)))


def test_different_references_may_fail_at_different_cases() -> None:
    votes = voted({1: range(9), 2: range(1, 10), 3: range(10), 4: range(10)})
    assert decide(RULES, FOUR, votes).drop is Drop.PASSING
    assert decide(Rules(cases=4, passing=8), FOUR, votes).drop is None


def test_each_lost_case_has_its_reason() -> None:
    inputs = made({1: "a", 2: "a", 3: None, 4: "d"})
    decision = decide(Rules(cases=5), inputs, voted({1: range(10)}))
    assert decision.cases == (1,)
    assert decision.losses == {Loss.DUPLICATE: 1, Loss.GENERATOR: 1, Loss.SANDBOX: 2}
    assert find_distinct(inputs) == {1: "a", 4: "d"}


def test_what_the_sandbox_failed_at_is_no_disagreement() -> None:
    decision = decide(RULES, FOUR, voted({1: range(10), 2: range(10), 3: range(10)}))
    assert decision.drop is None
    assert decision.losses == {Loss.SANDBOX: 1}
    assert decision.passing == tuple(range(10))


def test_a_problem_without_cases_is_dropped() -> None:
    decision = decide(RULES, FOUR, voted({number: range(5) for number in FOUR}))
    assert (decision.drop, decision.passing) == (Drop.CASES, ())
    few = decide(Rules(cases=4, least_cases=3), FOUR, voted({1: range(10), 2: range(10), 3: range(5), 4: range(5)}))
    assert few.drop is Drop.CASES
    assert "2 of 4, 3 are needed" in few.detail


@pytest.mark.parametrize(
    "numbers",
    [{"agree": 11}, {"cases": 0}, {"references": 5}, {"least_cases": 51}, {"checker": "lines"}, {"cpu_seconds": 0}],
)
def test_rules_that_contradict_each_other_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(TandemError, match="must be"):
        Rules(**numbers)


STEPS: list[Step] = [
    Written(code="print(1)"),
    Made(number=1, stdin="1\n"),
    Made(number=2, stdin=None, detail="RE"),
    Voted(number=1, expected="\ud7ff\u2028\n", agreeing=(0,), verdicts=(Verdict.OK,)),
]


def test_a_journal_killed_at_any_byte_keeps_all_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    journal = Journal(file)
    for step in STEPS:
        journal.add(step)
    whole = file.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == len(STEPS)
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        again = Journal(file)
        kept = sum(end <= size for end in ends)
        assert (again.written is not None) + len(again.made) + len(again.voted) == kept
        assert file.stat().st_size == ([0, *ends])[kept]
    again.add(Made(number=3, stdin="3"))
    assert sorted(Journal(file).made) == [1, 2, 3]
    assert Journal(file).voted[1] == STEPS[3]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_text('{"kind": "made", "number": 1, "stdin": "1"}\nrubbish\n')
    with pytest.raises(TandemError, match=r"line 2 of [\s\S]* done anew"):
        Journal(file)


def write_rows(folder: Path, *rows: object) -> Path:
    file = folder / "problems.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return file


def test_problems_name_references_and_generators(tmp_path: Path) -> None:
    (tmp_path / "sum.py").write_text("print(1)")
    references = ["print(2)", {"language": "cpp", "code": "int main() {}"}]
    file = write_rows(tmp_path, {"id": 7, "references": references, "generator": "sum.py"}, {"references": ["x"]})
    first, second = load_problems(file, "python")
    assert (first.name, first.generator) == ("7", "print(1)")
    assert [(each.language, each.code) for each in first.references] == [
        ("python", "print(2)"),
        ("cpp", "int main() {}"),
    ]
    assert (second.name, second.generator) == ("line 2", None)
    (tmp_path / "problems.jsonl").write_text('{"id": "line\u2028end", "references": ["x"]}\n')
    assert load_problems(file, "python")[0].name == "line\u2028end"
    with pytest.raises(TandemError, match="line 2 names no generator"):
        check_generators([first, second])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "x"}, "references"),
        ({"references": []}, "references"),
        ({"references": ["x"], "generator": "none.py"}, r"generator none\.py, which cannot be read"),
        ([], "JSON object like"),
    ],
)
def test_rows_that_are_no_problems_are_named(tmp_path: Path, row: object, words: str) -> None:
    with pytest.raises(TandemError, match=words):
        load_problems(write_rows(tmp_path, {"references": ["x"]}, row), "python")


def test_work_is_done_anew_only_if_what_it_depends_on_changes(tmp_path: Path) -> None:
    row = {"references": ["x"] * 11, "prompt": "p"}
    one, same, other, late = load_problems(
        write_rows(tmp_path, row, row | {"id": 1}, row | {"references": ["y"] * 11}, row | {"references": ["x"] * 12}),
        "python",
    )
    identity = one.identify(Rules(), "model")
    assert same.identify(Rules(agree=6, passing=1, least_cases=9), "model") == identity
    assert late.identify(Rules(), "model") == identity
    assert (
        len(
            {
                identity,
                other.identify(Rules(), "model"),
                one.identify(Rules(), "new"),
                one.identify(Rules(seed=1), "model"),
            }
        )
        == 4
    )


def test_generators_are_started_seeded_and_their_failures_told() -> None:
    request = build_generation("print(1)", Rules(seed=3), 5)
    assert request.arguments == ("3", "5", "50")
    assert set(request.files) == {"generator.py"}
    failed = read_generation(5, RunResult(verdict=Verdict.RE, detail="exit code 1", stderr="NameError: x"))
    assert failed.stdin is None
    assert "NameError" in failed.detail
    assert read_generation(5, RunResult(verdict=Verdict.OK, stdout=" \n")).stdin is None
    assert read_generation(5, RunResult(verdict=Verdict.OK, stdout="7\n")).stdin == "7\n"


def test_the_last_block_of_an_answer_is_the_program() -> None:
    assert read_code("First\n```\nold\n```\nthen\n```python\nnew\n```\ndone") == "new\n"
    assert read_code("print(1)") == "print(1)"
    assert read_code("```python\ncut off") == "cut off"


def test_a_report_counts_problems_and_cases() -> None:
    report = Report(
        [
            ("a", Decision(None, "", (1, 2), {Loss.DUPLICATE: 1}, tuple(range(10)))),
            ("b", Decision(Drop.PASSING, "8 of 10, 9 are needed", (1,), {Loss.DUPLICATE: 2}, tuple(range(8)))),
        ]
    )
    assert report.count_lines() == [
        "1 of 2 problems are kept, with 2 cases",
        "  1 dropped: too few references pass all its cases",
        "3 cases of all problems are dropped",
        "  3: the input was there already",
    ]
    problems = json.loads(report.to_json())["problems"]
    assert problems[1] == {
        "id": "b",
        "kept": False,
        "reason": "too few references pass all its cases (8 of 10, 9 are needed)",
        "cases": 1,
        "dropped_cases": {"duplicate": 2},
        "passing_references": 8,
    }
