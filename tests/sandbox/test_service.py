"""The service as its clients see it: verdicts, limits, overload, clients that go away, crashes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tandem_core.sandbox.client import SandboxClient, SandboxError, SandboxUnavailable
from tandem_core.sandbox.judging import Case, ExactChecker, FloatsChecker, JudgeRequest, ProgramChecker, TokensChecker
from tandem_core.sandbox.messages import MEBIBYTE, File, Limits, RunRequest, Source, Verdict

from .conftest import BOTH_KINDS_LONG, TOKEN, RunningSandbox, wait_until

pytestmark = BOTH_KINDS_LONG

ADD = {
    "python": "print(sum(map(int, input().split())))",
    "bash": "read a b; echo $((a + b))",
    "c": '#include <stdio.h>\nint main(void) { int a, b; scanf("%d%d", &a, &b); printf("%d", a + b); }',
    "cpp": "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }",
    "perl": 'my ($a, $b) = split " ", <STDIN>; print $a + $b;',
    "javascript": 'const [a, b] = require("fs").readFileSync(0, "utf8").split(" ").map(Number); console.log(a + b);',
    "java": "public class Main { public static void main(String[] a) { var s = new java.util.Scanner(System.in);"
    " System.out.println(s.nextInt() + s.nextInt()); } }",
    "go": 'package main\nimport "fmt"\nfunc main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }',
    "rust": "use std::io::*; fn main() { let mut s = String::new(); stdin().read_to_string(&mut s).unwrap();"
    ' println!("{}", s.split_whitespace().map(|x| x.parse::<i64>().unwrap()).sum::<i64>()); }',
}
SUMS = tuple(Case(stdin=f"{n} {n + 1}\n", expected=f"{2 * n + 1}\n") for n in range(5))
LIMITS = Limits(cpu_seconds=1, memory_bytes=128 * MEBIBYTE, output_bytes=4096)


async def verdicts(client: SandboxClient, language: str, code: str, **more: object) -> list[Verdict]:
    request = JudgeRequest.model_validate(
        {"programs": [Source(language=language, code=code)], "cases": SUMS, "limits": LIMITS, **more}
    )
    return [case.verdict for case in (await client.judge(request)).programs[0].cases]


async def test_every_language_of_the_machine_judges_a_right_program_right(client: SandboxClient) -> None:
    known = {language.name for language in (await client.languages()).languages}
    assert {"python", "bash", "perl"} <= known
    limits = Limits(cpu_seconds=5)
    for language in sorted(known & ADD.keys()):
        assert await verdicts(client, language, ADD[language], limits=limits) == [Verdict.OK] * 5, language


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("print(-1)", Verdict.WA),
        ("while True: pass", Verdict.TLE),
        ("x = b'1' * (1 << 30)", Verdict.MLE),
        ("print('x' * 100_000)", Verdict.OLE),
        ("raise SystemExit(1)", Verdict.RE),
        ("import os; os.kill(os.getpid(), 11)", Verdict.RE),
        ("import os; os.abort()", Verdict.RE),
    ],
)
async def test_each_failure_has_its_verdict(
    client: SandboxClient, sandbox: RunningSandbox, code: str, verdict: Verdict
) -> None:
    (found,) = await verdicts(client, "python", code, stop_early=True)
    if sandbox.unprivileged and verdict == Verdict.MLE:  # who asks for much more at once gets none, and no look sees it
        assert found in (Verdict.MLE, Verdict.RE)
    else:
        assert found == verdict


async def test_a_program_that_does_not_compile_is_a_compile_error(client: SandboxClient) -> None:
    request = JudgeRequest(
        programs=(Source(language="c", code="int main(void) { return x; }"), Source(language="c", code=ADD["c"])),
        cases=SUMS,
        checker=TokensChecker(),
    )
    broken, right = (await client.judge(request)).programs
    assert (broken.verdict, broken.cases) == (Verdict.CE, ())
    assert "undeclared" in broken.detail
    assert (right.verdict, right.passed) == (Verdict.OK, 5)


async def test_all_cases_are_judged_unless_it_is_to_stop_early(client: SandboxClient) -> None:
    code = "a, b = map(int, input().split()); print(a + b if a < 2 else 0)"
    assert await verdicts(client, "python", code) == [Verdict.OK] * 2 + [Verdict.WA] * 3
    assert await verdicts(client, "python", code, stop_early=True) == [Verdict.OK] * 2 + [Verdict.WA]


async def test_checkers_decide_what_is_right(client: SandboxClient) -> None:
    shifted = "print(' ', sum(map(int, input().split())), '\\n')"
    assert await verdicts(client, "python", shifted, checker=ExactChecker()) == [Verdict.WA] * 5
    assert await verdicts(client, "python", shifted, checker=TokensChecker()) == [Verdict.OK] * 5
    nearly = "print(sum(map(int, input().split())) + 1e-9)"
    assert await verdicts(client, "python", nearly, checker=TokensChecker()) == [Verdict.WA] * 5
    assert await verdicts(client, "python", nearly, checker=FloatsChecker()) == [Verdict.OK] * 5


async def test_a_checker_may_be_a_program(client: SandboxClient) -> None:
    code = """
import sys
given, output, expected = (open(name).read().split() for name in sys.argv[1:])
sys.exit(0 if int(output[0]) % 100 == int(expected[0]) else 1 if output[0] != "9999" else 7)
"""
    checker = ProgramChecker(source=Source(language="python", code=code))
    right = "print(sum(map(int, input().split())) + 100)"
    assert await verdicts(client, "python", right, checker=checker) == [Verdict.OK] * 5
    assert await verdicts(client, "python", "print(50)", checker=checker) == [Verdict.WA] * 5
    assert await verdicts(client, "python", "print(9999)", checker=checker) == [Verdict.IE] * 5


async def test_the_same_program_gets_the_same_verdicts_under_full_load(client: SandboxClient) -> None:
    heavy = "s = 0\nfor i in range(600_000): s += i\nprint(sum(map(int, input().split())))"
    runs = await asyncio.gather(*(verdicts(client, "python", heavy) for _ in range(10)))
    assert runs == [[Verdict.OK] * 5] * 10


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_programs_get_the_same_verdict_a_thousand_times_on_an_overloaded_machine(
    client: SandboxClient, sandbox: RunningSandbox
) -> None:
    near_its_limit = "s = 0\nfor i in range(400_000): s += i\nprint(sum(map(int, input().split())))"
    programs = {
        near_its_limit: Verdict.OK,
        "print(-1)": Verdict.WA,
        "while True: pass": Verdict.TLE,
        "raise SystemExit(1)": Verdict.RE,
        "print('x' * 100_000)": Verdict.OLE,
        **({} if sandbox.unprivileged else {"x = b'1' * (1 << 30)": Verdict.MLE}),
    }
    limits = LIMITS.model_copy(update={"cpu_seconds": 0.15})
    turns = asyncio.Semaphore(16)

    async def judge(code: str) -> Verdict:
        async with turns:
            return (await verdicts(client, "python", code, cases=SUMS[:1], limits=limits))[0]

    # Each fifth time all of them, in between the one whose verdict hangs on how time is counted.
    order = [code for number in range(1000) for code in (programs if number % 5 == 0 else [near_its_limit])]
    with busy_machine():
        found = await asyncio.gather(*map(judge, order))
    wrong = Counter((code, verdict) for code, verdict in zip(order, found, strict=True) if verdict != programs[code])
    assert not wrong


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_no_compiled_program_is_ever_busy(client: SandboxClient) -> None:
    """One in a thousand was: another lane's new process held the file open in which it had just been written."""
    turns = asyncio.Semaphore(12)

    async def say(number: int) -> str:
        code = f'#include <stdio.h>\nint main(void) {{ printf("%d", {number}); return 0; }}'
        async with turns:
            result = await client.run(RunRequest(source=Source(language="c", code=code)))
        return result.stdout or f"{result.verdict}: {result.stderr}"

    found = Counter(await asyncio.gather(*(say(number % 40) for number in range(5000))))
    assert found == {str(number): 125 for number in range(40)}


@contextmanager
def busy_machine() -> Iterator[None]:
    """An endless loop beside it for each processor."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


async def test_limits_hold_within_five_percent(client: SandboxClient) -> None:
    loop = Source(language="python", code="while True: pass")
    result = await client.run(RunRequest(source=loop, limits=Limits(cpu_seconds=1)))
    assert 1.0 <= result.cpu_seconds <= 1.05, result


@pytest.mark.usefixtures("control_groups")
async def test_memory_is_what_all_processes_needed(client: SandboxClient) -> None:
    fits = Source(language="python", code="x = bytearray(b'1' * (88 << 20)); print(len(x))")
    result = await client.run(RunRequest(source=fits, limits=Limits(memory_bytes=200 * MEBIBYTE)))
    assert result.verdict == Verdict.OK, result
    assert 176 * MEBIBYTE <= result.memory_bytes <= 200 * MEBIBYTE


async def test_a_run_gets_files_input_arguments_and_environment_and_gives_files_back(client: SandboxClient) -> None:
    request = RunRequest(
        command=("sh", "-c", 'cat data/in.txt - > out.txt; printf "%s %s" "$0 $1" "$NAME"', "a'b"),
        arguments=("c d",),
        environment={"NAME": "it's $HOME"},
        files={"data/in.txt": File(text="first\n"), "bytes": File.of(b"\xff\x00")},
        stdin="second\n",
        outputs=("out.txt", "bytes"),
    )
    result = await client.run(request)
    assert (result.verdict, result.stdout) == (Verdict.OK, "a'b c d it's $HOME"), result
    assert {path: file.data for path, file in result.files.items()} == {
        "out.txt": b"first\nsecond\n",
        "bytes": b"\xff\x00",
    }


async def test_bad_requests_are_told_what_is_wrong(client: SandboxClient, sandbox: RunningSandbox) -> None:
    for request, words in (
        (RunRequest(source=Source(language="cobol85", code="")), "no language 'cobol85'"),
        (RunRequest(command=("true",), image="nowhere"), "no image 'nowhere'"),
    ):
        with pytest.raises(SandboxError, match=words):
            await client.run(request)
    with pytest.raises(SandboxError, match="no language 'klingon'"):
        await verdicts(client, "klingon", "")
    with pytest.raises(SandboxError, match=r"(?s)422.*undeclared"):
        await verdicts(
            client, "python", "", checker=ProgramChecker(source=Source(language="c", code="int main(void) { x; }"))
        )
    async with httpx.AsyncClient(base_url=sandbox.url, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        bad_path = {"command": ["true"], "files": {"../../etc/passwd": {"text": ""}}}
        assert (await http.post("/v1/run", json=bad_path)).status_code == 422
        assert (await http.post("/v1/judge", json={"programs": [], "cases": []})).status_code == 422
        metrics = (await http.get("/metrics")).text
        assert 'tandem_sandbox_verdicts_total{verdict="OK"}' in metrics


async def test_nothing_is_run_without_the_token(sandbox: RunningSandbox) -> None:
    async with SandboxClient(sandbox.url, "guess") as stranger:
        with pytest.raises(SandboxError, match="401"):
            await stranger.run(RunRequest(command=("true",)))


def test_the_api_is_described(sandbox: RunningSandbox) -> None:
    described = httpx.get(f"{sandbox.url}/openapi.json").json()
    assert {"/v1/run", "/v1/judge", "/v1/languages"} <= described["paths"].keys()
    assert described["components"]["schemas"]["Limits"]["properties"]["cpu_seconds"]["description"]


async def test_an_overloaded_service_says_when_to_come_again(other_sandbox: RunningSandbox) -> None:
    other_sandbox.options = (*other_sandbox.options, "--queued", "1")
    other_sandbox.start()
    async with SandboxClient(other_sandbox.url, TOKEN) as patient:
        slow = asyncio.create_task(patient.run(RunRequest(command=("sleep", "1"), limits=Limits(wall_seconds=10))))
        refused = None
        while not slow.done() and refused is None:
            answer = await asyncio.to_thread(_post_true, other_sandbox)
            refused = answer if answer.status_code == 429 else None
        assert refused is not None
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await patient.run(RunRequest(command=("true",)))).verdict == Verdict.OK
        assert (await slow).verdict == Verdict.OK


def _post_true(sandbox: RunningSandbox) -> httpx.Response:
    return httpx.post(
        f"{sandbox.url}/v1/run", json={"command": ["true"]}, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
    )


async def test_a_client_that_goes_away_has_its_container_ended(client: SandboxClient, sandbox: RunningSandbox) -> None:
    marker = "987654.25"
    running = asyncio.create_task(client.run(RunRequest(command=("sleep", marker), limits=Limits(wall_seconds=600))))
    await asyncio.to_thread(wait_until, lambda: _runs(marker), "the program runs")
    running.cancel()
    await asyncio.to_thread(wait_until, lambda: not _runs(marker), "the program is ended", 10.0)
    assert (await client.run(RunRequest(command=("true",)))).verdict == Verdict.OK


async def test_a_service_that_is_killed_takes_all_with_it_and_starts_again(other_sandbox: RunningSandbox) -> None:
    other_sandbox.start()
    marker = "987654.75"
    async with SandboxClient(other_sandbox.url, TOKEN, patience_seconds=0.1) as impatient:
        request = RunRequest(command=("sh", "-c", f"setsid sleep {marker} & sleep {marker}"))
        running = asyncio.create_task(impatient.run(request))
        await asyncio.to_thread(wait_until, lambda: _runs(marker), "the program runs")
        await asyncio.to_thread(other_sandbox.stop, signal.SIGKILL)
        with pytest.raises(SandboxUnavailable):
            await running
    await asyncio.to_thread(wait_until, lambda: not _runs(marker), "the program is ended", 10.0)
    assert other_sandbox.unprivileged or other_sandbox.control_groups() != []
    await asyncio.to_thread(other_sandbox.start)
    async with SandboxClient(other_sandbox.url, TOKEN) as again:
        assert (await again.run(RunRequest(command=("true",)))).verdict == Verdict.OK
    assert other_sandbox.stop() == 0
    assert other_sandbox.control_groups() == []


async def test_a_home_has_one_service(sandbox: RunningSandbox) -> None:
    other = RunningSandbox(sandbox.home, unprivileged=sandbox.unprivileged)
    with pytest.raises(AssertionError, match="another sandbox has the home"):
        await asyncio.to_thread(other.start)


def _runs(marker: str) -> bool:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False
