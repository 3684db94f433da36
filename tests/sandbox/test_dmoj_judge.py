"""`tandem-sandbox judge` as a user of DMOJ runs it, with a real sandbox."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import TOKEN, RunningSandbox

INIT = """
archive: aplusb.zip
test_cases:
- {in: aplusb.1.in, out: aplusb.1.out, points: 5}
- batched:
  - {in: aplusb.2.in, out: aplusb.2.out}
  - {in: aplusb.3.in, out: aplusb.3.out}
  points: 20
- batched:
  - {in: aplusb.4.in, out: aplusb.4.out}
  points: 75
  dependencies: [1]
"""
CASES = {1: (["1 1"], [2]), 2: (["0 0"], [0]), 3: (["5 5", "1 2"], [10, 3]), 4: (["100 1", "-1 1"], [101, 0])}
ADD = "for _ in range(int(input())):\n    print(sum(map(int, input().split())))\n"
SMALL = ADD.replace("sum(", "min(9, sum(").replace("split())))", "split()))))")
TESTLIB = """
#include <stdio.h>
struct Stream { FILE *file; };
static Stream ouf, ans;
static void registerTestlibCmd(int, char **argv) { ouf.file = fopen(argv[2], "r"); ans.file = fopen(argv[3], "r"); }
"""
CHECKER = """
#include "testlib.h"
int main(int argc, char **argv) {
  registerTestlibCmd(argc, argv);
  int found = 0, wanted = 0;
  if (fscanf(ouf.file, "%d", &found) != 1 || fscanf(ans.file, "%d", &wanted) != 1) return 2;
  if (found == wanted) return 0;
  if (found == wanted + HALF) { fprintf(stderr, "points 4\\n"); printf("half right"); return 7; }
  return 1;
}
"""


@pytest.fixture
def aplusb(tmp_path: Path) -> Path:
    folder = tmp_path / "aplusb"
    folder.mkdir()
    (folder / "init.yml").write_text(INIT)
    with zipfile.ZipFile(folder / "aplusb.zip", "w") as archive:
        for number, (lines, sums) in CASES.items():
            archive.writestr(f"aplusb.{number}.in", "\r\n".join([str(len(lines)), *lines]))
            archive.writestr(f"aplusb.{number}.out", "\n".join(map(str, sums)))
    return folder


def judge(
    sandbox: RunningSandbox, problem: Path, program: str, *options: str, name: str = "solution.py"
) -> subprocess.CompletedProcess[str]:
    file = problem.parent / name
    file.write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "tandem_sandbox.cli", "judge", str(problem), str(file), "--url", sandbox.url, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"TANDEM_SANDBOX_TOKEN": TOKEN},
    )


def verdicts(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Each line without times and memory."""
    return [" ".join(line.partition("[")[0].split()) for line in done.stdout.splitlines()]


def test_a_right_program_gets_all_points(sandbox: RunningSandbox, aplusb: Path) -> None:
    done = judge(sandbox, aplusb, ADD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdicts(done) == [
        "Test case 1 AC",
        "Batch #1",
        "Test case 2 AC",
        "Test case 3 AC",
        "Batch #2",
        "Test case 4 AC",
        "Result: AC, 100/100 points",
    ]
    assert "kb] 75/75" in done.stdout


def test_a_failed_batch_takes_those_that_depend_on_it_along(sandbox: RunningSandbox, aplusb: Path) -> None:
    done = judge(sandbox, aplusb, SMALL)
    assert done.returncode == 1
    assert [line.split()[-1] for line in verdicts(done) if "case" in line] == ["AC", "AC", "WA", "--"]
    assert verdicts(done)[-1] == "Result: WA, 5/100 points"


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("while True: pass", "TLE"),
        ("x = bytearray(1 << 30)", "MLE"),
        ("raise SystemExit(3)", "IR"),
        ("import os; os.abort()", "RTE"),
        ("print('1' * (1 << 26))", "OLE"),
    ],
)
def test_each_failure_has_dmojs_verdict(sandbox: RunningSandbox, aplusb: Path, program: str, verdict: str) -> None:
    done = judge(sandbox, aplusb, program, "--time-limit", "0.3", "--short-circuit")
    assert verdicts(done)[0] == f"Test case 1 {verdict}"
    assert verdicts(done)[-1] == f"Result: {verdict}, 0/100 points"
    assert done.stdout.count("--") == 3


def test_a_program_that_does_not_compile_is_told_why(sandbox: RunningSandbox, aplusb: Path) -> None:
    done = judge(sandbox, aplusb, "int main(void) { return undeclared; }", name="solution.c")
    assert (done.returncode, "undeclared" in done.stdout) == (1, True)
    assert done.stdout.splitlines()[-1] == "Result: CE, 0 points"


def test_a_checker_with_testlib_gives_a_part_of_the_points(sandbox: RunningSandbox, tmp_path: Path) -> None:
    folder = tmp_path / "close"
    folder.mkdir()
    (folder / "init.yml").write_text(
        "checker:\n  name: bridged\n"
        "  args: {files: [check.cpp, testlib.h], lang: CPP17, type: testlib, flags: [-DHALF=1]}\n"
        "test_cases: [{in: 1.in, out: 1.out, points: 10}, {in: 2.in, out: 2.out, points: 10}]"
    )
    for name, text in {"check.cpp": CHECKER, "testlib.h": TESTLIB, "1.in": "1", "1.out": "1", "2.in": "2"}.items():
        (folder / name).write_text(text)
    (folder / "2.out").write_text("7")
    done = judge(sandbox, folder, "n = int(input()); print(n + (n == 1))")
    assert "4/10 (half right)" in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "Result: WA, 4/20 points"


def test_linecount_gives_points_for_what_was_written_in_time(sandbox: RunningSandbox, tmp_path: Path) -> None:
    folder = tmp_path / "lines"
    folder.mkdir()
    (folder / "init.yml").write_text("checker: linecount\ntest_cases: [{out: 1.out, points: 10}]")
    (folder / "1.out").write_text("1\n2\n3\n4\n")
    done = judge(sandbox, folder, "print('1\\n2', flush=True)\nwhile True: pass", "--time-limit", "0.2")
    assert verdicts(done) == ["Test case 1 TLE", "Result: TLE, 5/10 points"]


def test_mistakes_are_told_in_one_message(sandbox: RunningSandbox, aplusb: Path, tmp_path: Path) -> None:
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "init.yml").write_text("interactive: {files: interact.cpp}\ntest_cases: [{in: 1.in}]")
    for done, words in (
        (judge(sandbox, tmp_path / "talk", ADD), "talk cannot be judged here: it is interactive"),
        (judge(sandbox, aplusb, ADD, name="solution.xyz"), "no ending that tells its language"),
        (judge(sandbox, aplusb, ADD, "--url", "http://127.0.0.1:9"), "check that it runs"),
        (judge(sandbox, aplusb, ADD, "--language", "fortran"), "no image has"),
    ):
        assert done.returncode == 2, done.stdout
        assert words in done.stderr
        assert "Traceback" not in done.stderr
