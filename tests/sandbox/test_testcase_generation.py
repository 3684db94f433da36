"""`tandem data testcases` with a real sandbox: what is kept and why not, models that write generators, kills."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import httpx
import pytest
from tandem_core.sandbox.client import SandboxClient
from tandem_core.sandbox.messages import Verdict
from tandem_sandbox.testcases.generation import build_generation
from tandem_sandbox.testcases.rules import Rules

from .conftest import TOKEN, RunningSandbox, wait_until
from .test_code_reward import answer, job, rewards

CASES = 6
GENERATOR = """
import random, sys
case, cases = map(int, sys.argv[1:])
print(random.randint(0, 10 ** case), random.randint(1, cases))
"""
ADD = "read a b; echo $((a + b))"
SUBTRACT = "read a b; echo $((a - b))"


BAD_GENERATOR = """
import sys
case = int(sys.argv[1])
print(*([1, 2] if case < 3 else [3, case / (case - 3)] if case < 5 else [case, 1]))
"""


def problem(
    name: str, references: Sequence[str], generator: str | None = "generator.py", **more: str
) -> dict[str, Any]:
    row = {"id": name, "prompt": f"Problem {name}", "references": [{"language": "bash", "code": c} for c in references]}
    return row | ({"generator": generator} if generator else {}) | more


GOOD = problem("good", [ADD] * 9 + [SUBTRACT], note="kept")
WRONG = problem("wrong", [ADD] * 8 + ["read a b; echo $a", "exit 1"])
AMBIGUOUS = problem("ambiguous", [ADD] * 6 + [SUBTRACT] * 4)


@contextmanager
def serving(answer_post: Callable[[str, bytes], tuple[int, bytes]]) -> Iterator[str]:
    """A server on loopback that answers POST (path, body) so; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = answer_post(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Command:
    """`tandem data testcases` in a folder."""

    def __init__(self, folder: Path, sandbox_url: str) -> None:
        self.folder = folder
        self.sandbox_url = sandbox_url
        (folder / "generator.py").write_text(GENERATOR)

    def start(self, rows: Sequence[Mapping[str, Any]], out: str, *options: str) -> "subprocess.Popen[str]":
        (self.folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, "-m", "tandem_local", "data", "testcases", "problems.jsonl", out]
        command += ["--sandbox-url", self.sandbox_url, "--cases", str(CASES), *options]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"TANDEM_SANDBOX_TOKEN": TOKEN, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, rows: Sequence[Mapping[str, Any]], out: str, *options: str) -> tuple[int, str]:
        process = self.start(rows, out, *options)
        said = process.communicate(timeout=120)[0]
        return process.returncode, said

    def rows(self, out: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / out).read_text().splitlines()]

    def report(self, out: str) -> dict[str, Any]:
        report = json.loads((self.folder / f"{out}.work" / "report.json").read_text())
        return {each["id"]: each for each in report["problems"]}

    def steps(self, out: str) -> list[str]:
        files = sorted((self.folder / f"{out}.work").glob("*.jsonl"))
        return [line for file in files for line in file.read_text().splitlines(keepends=True)]


@pytest.fixture
def command(tmp_path: Path, sandbox: RunningSandbox) -> Command:
    return Command(tmp_path, sandbox.url)


async def test_cases_that_references_agree_on_become_rows_that_the_reward_reads(
    command: Command, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = command.run([GOOD, WRONG, AMBIGUOUS], "out.jsonl")
    assert code == 0, said
    (row,) = command.rows("out.jsonl")
    assert (row["id"], row["prompt"], row["note"], row["answer"]) == ("good", "Problem good", "kept", ADD)
    assert len(row["tests"]) == CASES
    assert all(sum(map(int, case["stdin"].split())) == int(case["expected"]) for case in row["tests"])
    assert "good: kept, 6 of 6 cases" in said
    assert "wrong: dropped, too few references pass all its cases (8 of 10, 9 are needed)" in said
    assert "ambiguous: dropped, too few of its cases are kept (0 of 6, 1 are needed)" in said
    assert "1 of 3 problems are kept, with 6 cases" in said
    report = command.report("out.jsonl")
    assert report["ambiguous"]["dropped_cases"] == {"disagreement": CASES}
    assert report["wrong"]["passing_references"] == 8
    monkeypatch.setenv("TANDEM_SANDBOX_TOKEN", TOKEN)
    spec = job(casesField="tests", language="bash", sandboxUrl=sandbox.url)
    scored = await rewards(spec, answer(row["answer"], **row), answer(SUBTRACT, **row))
    assert scored == [1, 0]


def test_numbers_are_options_and_change_the_decision_without_new_runs(command: Command) -> None:
    assert command.run([WRONG, AMBIGUOUS], "out.jsonl")[0] == 1
    before = command.steps("out.jsonl")
    code, said = command.run([WRONG, AMBIGUOUS], "out.jsonl", "--agree", "6", "--passing", "6")
    assert code == 0, said
    assert [row["id"] for row in command.rows("out.jsonl")] == ["wrong", "ambiguous"]
    assert command.steps("out.jsonl") == before


def test_killed_in_the_middle_it_goes_on_where_it_was(command: Command, sandbox: RunningSandbox) -> None:
    rows = [GOOD, WRONG]
    runs = len(rows) * CASES * 11
    start = count_runs(sandbox)
    kills = 0
    for least in (4, 16):
        process = command.start(rows, "out.jsonl", "--at-a-time", "4")
        wait_until(lambda least=least: len(command.steps("out.jsonl")) >= least, "work is done")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        kills += 1
        assert not (command.folder / "out.jsonl").exists(), "it was not in the middle"
    before = command.steps("out.jsonl")
    code, said = command.run(rows, "out.jsonl")
    assert code == 0, said
    after = command.steps("out.jsonl")
    names = Counter((step["kind"], step["number"]) for step in map(json.loads, after))
    assert set(names.values()) == {len(rows)}
    assert set(before) - {line for line in before if not line.endswith("\n")} <= set(after)
    (row,) = command.rows("out.jsonl")
    assert [sum(map(int, case["stdin"].split())) - int(case["expected"]) for case in row["tests"]] == [0] * CASES
    # Only what was under way when it was killed is run once more: at most the votes of four cases.
    assert runs <= count_runs(sandbox) - start <= runs + kills * 40
    done = count_runs(sandbox)
    assert command.run(rows, "out.jsonl")[0] == 0
    assert count_runs(sandbox) == done


def count_runs(sandbox: RunningSandbox) -> int:
    """Runs that the service has finished so far."""
    text = httpx.get(f"{sandbox.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    lines = [line for line in text.splitlines() if line.startswith("tandem_sandbox_verdicts_total")]
    return sum(int(float(line.split()[-1])) for line in lines)


def test_only_one_command_works_on_a_file(command: Command) -> None:
    first = command.start([GOOD], "out.jsonl", "--at-a-time", "1")
    wait_until(lambda: bool(command.steps("out.jsonl")), "it works")
    code, said = command.run([GOOD], "out.jsonl")
    assert (code, "another command works on out.jsonl" in said) == (2, True), said
    assert first.wait(60) == 0


def test_rows_that_say_the_same_are_done_once(command: Command) -> None:
    code, said = command.run([GOOD, GOOD | {"id": "again"}], "out.jsonl")
    assert code == 0, said
    assert [row["id"] for row in command.rows("out.jsonl")] == ["good", "again"]
    assert len(command.steps("out.jsonl")) == 2 * CASES


def test_generators_that_fail_or_repeat_themselves_cost_their_cases(command: Command) -> None:
    (command.folder / "bad.py").write_text(BAD_GENERATOR)
    code, said = command.run([GOOD | {"generator": "bad.py"}], "out.jsonl", "--passing", "1", "--agree", "1")
    assert code == 0, said
    assert command.report("out.jsonl")["good"]["dropped_cases"] == {"duplicate": 1, "generator": 1, "disagreement": 1}


def test_too_few_references_or_none_are_told(command: Command) -> None:
    few = problem("few", [ADD] * 3)
    code, said = command.run([few], "out.jsonl")
    assert code == 1
    assert "few: dropped, it has too few references (3, 10 are needed)" in said
    code, said = command.run([few | {"references": [{"language": "cobol", "code": ""}] * 10}], "out.jsonl")
    assert code == 2
    assert "no language 'cobol'" in said
    code, said = command.run([problem("x", [ADD] * 10, None)], "out.jsonl")
    assert code == 2
    assert "x names no generator" in said


def test_what_the_sandbox_fails_at_is_tried_again_then_dropped_and_never_a_disagreement(
    tmp_path: Path, sandbox: RunningSandbox
) -> None:
    failures, lock, forward = Counter[str](), Lock(), httpx.Client(timeout=60)

    def fail_some(path: str, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        case = (request["source"]["code"], request["stdin"])
        with lock:
            # The reference `true; ...` fails twice for each input, and for ever for those that begin with 4.
            often = 1000 if request["stdin"].startswith("4 ") else 2
            if case[0].startswith("true;") and failures[str(case)] < often:
                failures[str(case)] += 1
                return 200, json.dumps({"verdict": "IE", "detail": "no container"}).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        answer = forward.post(f"{sandbox.url}{path}", content=body, headers=headers)
        return answer.status_code, answer.content

    with serving(fail_some) as url:
        command = Command(tmp_path, url)
        (tmp_path / "generator.py").write_text("import sys\nprint(sys.argv[1], 1)")
        code, said = command.run([problem("flaky", [ADD] * 9 + [f"true; {ADD}"])], "out.jsonl")
        assert code == 0, said
        assert command.report("out.jsonl")["flaky"]["dropped_cases"] == {"sandbox": 1}
        assert command.report("out.jsonl")["flaky"]["passing_references"] == 10
        assert [case["stdin"] for case in command.rows("out.jsonl")[0]["tests"]] == [
            f"{n} 1\n" for n in (1, 2, 3, 5, 6)
        ]
        failures.clear()
        failures.update({str((f"true; {ADD}", "4 1\n")): 1000})
        assert command.run([problem("flaky", [ADD] * 9 + [f"true; {ADD}"])], "out.jsonl")[0] == 0
        assert len(command.rows("out.jsonl")[0]["tests"]) == CASES, "a later run does not try again"


BROKEN = "Here you are:\n```python\nprint(undefined)\n```"
WORKING = f"Sorry.\n```python\n{GENERATOR}```\nThat should do."


class ScriptedModel:
    """Answers as a model would: wrongly first, rightly once it has read what was wrong."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, path: str, body: bytes) -> tuple[int, bytes]:
        assert path == "/v1/chat/completions"
        request = json.loads(body)
        self.asked.append(request)
        if len(self.asked) == 1:
            return 503, b"loading the model"
        first, last = request["messages"][0]["content"], request["messages"][-1]["content"]
        text = WORKING if "NameError" in last and "Problem hopeless" not in first else BROKEN
        return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def test_a_model_writes_generators_and_reads_its_own_errors(command: Command) -> None:
    rows = [problem("sum", [ADD] * 10, None), problem("hopeless", [ADD] * 10, None), GOOD]
    model = ScriptedModel()
    with serving(model) as url:
        options = ("--model-url", f"{url}/v1", "--model", "scripted", "--attempts", "3")
        code, said = command.run(rows, "out.jsonl", *options)
        assert code == 0, said
        assert [row["id"] for row in command.rows("out.jsonl")] == ["sum", "good"]
        assert "hopeless: dropped, the model wrote no generator that works" in said
        assert len(model.asked) == 1 + 2 + 3, "a refusal, an error and its repair, three errors"
        assert all("CYaRon" in request["messages"][0]["content"] for request in model.asked)
        assert {request["model"] for request in model.asked} == {"scripted"}
        assert command.run(rows, "out.jsonl", *options)[0] == 0
        assert len(model.asked) == 6, "the model was asked again for what was there"


def test_a_model_that_refuses_is_told(command: Command) -> None:
    with serving(lambda path, body: (401, b"no such key")) as url:
        code, said = command.run([problem("sum", [ADD] * 10, None)], "out.jsonl", "--model-url", url, "--model", "m")
    assert (code, "refuses: 401 no such key; check --model-url" in said) == (2, True), said
    assert "Traceback" not in said


def test_a_job_of_its_own_starts_a_sandbox(command: Command) -> None:
    rows = [problem("sum", [ADD], "generator.py")]
    (command.folder / "problems.jsonl").write_text(json.dumps(rows[0]) + "\n")
    options = ["--cases", "1", "--references", "1", "--agree", "1", "--passing", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tandem_local", "data", "testcases", "problems.jsonl", "out.jsonl", *options],
        cwd=command.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(command.rows("out.jsonl")[0]["tests"]) == 1


@pytest.mark.skipif(find_spec("cyaron") is None, reason="the package cyaron is not installed")
async def test_cyaron_is_beside_a_generator_and_draws_from_the_seed(client: SandboxClient) -> None:
    code = (
        "import sys\nfrom cyaron import *\nn = 5 + int(sys.argv[1])\nprint(n, String.random(5))\nprint(Graph.tree(n))"
    )
    texts = []
    for seed, number in ((0, 1), (0, 1), (0, 2), (1, 1)):
        result = await client.run(build_generation(code, Rules(seed=seed), number))
        assert result.verdict == Verdict.OK, result
        assert len(result.stdout.splitlines()) == 5 + number
        texts.append(result.stdout)
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
