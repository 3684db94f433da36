"""All languages that Debian has, in an image that the command builds: each judges a right and a wrong program."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.judging import Case, JudgeRequest, TokensChecker
from tandem_core.sandbox.messages import MEBIBYTE, Limits, Source, Verdict
from tandem_sandbox.languages import LANGUAGES

from .conftest import TOKEN, RunningSandbox, make_home

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

ADD = {
    "bash": "read a b; echo $((a + b))",
    "python": "a, b = map(int, input().split()); print(a + b)",
    "c": '#include <stdio.h>\nint main(void) { int a, b; scanf("%d%d", &a, &b); printf("%d", a + b); }',
    "cpp": "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }",
    "javascript": 'const [a, b] = require("fs").readFileSync(0, "utf8").split(" ").map(Number); console.log(a + b);',
    "typescript": "declare var require: any;\nconst text: string = require('fs').readFileSync(0, 'utf8');\n"
    "const [a, b]: number[] = text.split(' ').map(Number);\nconsole.log(a + b);",
    "java": "public class Main { public static void main(String[] x) { var s = new java.util.Scanner(System.in);"
    " int a = s.nextInt(), b = s.nextInt(); System.out.println(a + b); } }",
    "go": 'package main\nimport "fmt"\nfunc main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }',
    "rust": "use std::io::*; fn main() { let mut s = String::new(); stdin().read_to_string(&mut s).unwrap();"
    " let v: Vec<i64> = s.split_whitespace().map(|x| x.parse().unwrap()).collect(); let (a, b) = (v[0], v[1]);"
    ' println!("{}", a + b); }',
    "perl": 'my ($a, $b) = split " ", <STDIN>; print $a + $b;',
    "ruby": "a, b = gets.split.map(&:to_i)\nputs a + b",
    "lua": 'local a, b = io.read("n", "n")\nprint(a + b)',
    "php": '<?php [$a, $b] = explode(" ", fgets(STDIN)); echo $a + $b;',
    "r": 'x <- scan(file("stdin"), quiet = TRUE)\na <- x[1]; b <- x[2]\ncat(a + b)',
    "racket": "#lang racket\n(define a (read))\n(define b (read))\n(displayln (+ a b))",
    "julia": "a, b = parse.(Int, split(readline()))\nprintln(a + b)",
    "haskell": "main = do { [a, b] <- map read . words <$> getLine; print (a + b :: Int) }",
    "ocaml": 'let () = Scanf.scanf " %d %d" (fun a b -> print_int (a + b))',
    "d": 'import std.stdio; void main() { int a, b; readf(" %d %d", &a, &b); writeln(a + b); }',
    "pascal": "var a, b: longint; begin read(a, b); writeln(a + b); end.",
    "elixir": '[a, b] = IO.gets("") |> String.split() |> Enum.map(&String.to_integer/1)\nIO.puts(a + b)',
    "clojure": "(let [a (read) b (read)] (println (+ a b)))",
    "scala": "object Main { def main(x: Array[String]): Unit = {"
    " val Array(a, b) = scala.io.StdIn.readLine().split(' ').map(_.toInt); println(a + b) } }",
    "kotlin": "fun main(x: Array<String>) { val (a, b) = readLine()!!.split(' ').map { it.toInt() }; println(a + b) }",
    "csharp": "class M { static void Main() { var p = System.Console.ReadLine().Split(' ');"
    " int a = int.Parse(p[0]), b = int.Parse(p[1]); System.Console.WriteLine(a + b); } }",
    "ada": "with Ada.Integer_Text_IO; use Ada.Integer_Text_IO;\nprocedure Main is\n  A, B : Integer;\nbegin\n"
    "  Get (A); Get (B); Put (A + B);\nend Main;",
    "fortran": "program main\n  integer :: a, b\n  read *, a, b\n  print *, a + b\nend program",
    "nim": "import strutils\nlet p = stdin.readLine.split\nlet a = parseInt(p[0])\nlet b = parseInt(p[1])\necho a + b",
}
NOT_IN_DEBIAN = {"swift", "dart", "lean"}
CASES = tuple(Case(stdin=f"{n} {n + 1}\n", expected=f"{2 * n + 1}\n") for n in (0, 3, 500))


def wrong(code: str) -> str:
    """The same program, but for the plus."""
    return re.sub(r"a \+ (\$?)b", r"a - \1b", code).replace("A + B", "A - B").replace("(+ a b)", "(- a b)")


def in_debian(language: str) -> bool:
    """Whether this machine's apt sources have all its packages."""
    command = ["apt-cache", "policy", *LANGUAGES[language].packages]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    candidates = re.findall(r"Candidate: (\S+)", told)
    return len(candidates) == len(set(LANGUAGES[language].packages)) and "(none)" not in candidates


@pytest.fixture(scope="module")
def built(request: pytest.FixtureRequest) -> Iterator[RunningSandbox]:
    """A service with an image of all that are to be tried: `-k` chooses."""
    chosen = [item.callspec.params.get("language") for item in request.session.items if hasattr(item, "callspec")]
    languages = [name for name in ADD if name in chosen and in_debian(name)]
    with make_home(unprivileged=False) as home:
        command = [sys.executable, "-m", "tandem_sandbox.cli", "--home", str(home), "image", "build", "all"]
        done = subprocess.run([*command, "--languages", ",".join(languages)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        running = RunningSandbox(home, "--running", "2", "--ahead", "2", "--no-host-image")
        running.start()
        yield running
        assert running.stop() == 0


def test_each_language_has_a_program_here() -> None:
    assert LANGUAGES.keys() - ADD.keys() == NOT_IN_DEBIAN
    assert {name for name, language in LANGUAGES.items() if not language.packages} == NOT_IN_DEBIAN
    assert all(wrong(code) != code for code in ADD.values())


@pytest.mark.parametrize("language", ADD)
async def test_a_right_program_is_right_and_a_wrong_one_wrong(built: RunningSandbox, language: str) -> None:
    if not in_debian(language):
        pytest.skip(f"LEFT OUT: this Debian has no {' '.join(LANGUAGES[language].packages)}")
    right, bad = ADD[language], wrong(ADD[language])
    async with SandboxClient(built.url, TOKEN) as client:
        request = JudgeRequest(
            programs=tuple(Source(language=language, code=code) for code in (right, bad)),
            cases=CASES,
            checker=TokensChecker(),
            limits=Limits(cpu_seconds=10, memory_bytes=1024 * MEBIBYTE),
        )
        good, failed = (await client.judge(request)).programs
    assert (good.verdict, good.passed) == (Verdict.OK, 3), good
    assert (failed.verdict, failed.passed) == (Verdict.WA, 0), failed
