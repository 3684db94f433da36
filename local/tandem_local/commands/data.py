"""tandem data"""

from pathlib import Path
from typing import Annotated

import typer
from tandem_sandbox.testcases.rules import Rules

_DEFAULT = Rules()

data = typer.Typer(
    name="data",
    help="Make training data.",
    epilog="Start here: `tandem data testcases --help`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@data.callback()
def _group() -> None:
    """Make training data."""


@data.command("testcases")
def make_testcases(
    problems: Annotated[Path, typer.Argument(help="JSONL file with the problems.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="JSONL file to write.", show_default=False)],
    cases: Annotated[int, typer.Option(help="Inputs that are made for each problem.")] = _DEFAULT.cases,
    references: Annotated[
        int, typer.Option(help="Reference solutions that are run, the first ones of each problem.")
    ] = _DEFAULT.references,
    agree: Annotated[
        int, typer.Option(help="Keep a case if so many references give the same output.")
    ] = _DEFAULT.agree,
    passing: Annotated[
        int, typer.Option(help="Keep a problem if so many references pass all kept cases.")
    ] = _DEFAULT.passing,
    least_cases: Annotated[
        int, typer.Option(help="Keep a problem if it has so many kept cases. Kimi k1.5 used 40 of 50.")
    ] = _DEFAULT.least_cases,
    seed: Annotated[int, typer.Option(help="Seed of the generators.")] = _DEFAULT.seed,
    checker: Annotated[
        str, typer.Option(help="When outputs are the same: tokens, exact or floats.")
    ] = _DEFAULT.checker,
    cpu_seconds: Annotated[float, typer.Option(help="Processor time of each run.")] = _DEFAULT.cpu_seconds,
    memory_mebibytes: Annotated[int, typer.Option(help="Memory of each run.")] = _DEFAULT.memory_bytes >> 20,
    language: Annotated[str, typer.Option(help="Language of references that are plain text.")] = "python",
    model_url: Annotated[
        str | None,
        typer.Option(help="OpenAI-compatible API of a model that writes missing generators; ends with /v1 as a rule."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of that model. OPENAI_API_KEY is its key.")] = None,
    attempts: Annotated[int, typer.Option(help="Programs that the model may write for a problem.", min=1)] = 4,
    sandbox_url: Annotated[
        str | None,
        typer.Option(help="A sandbox that runs; TANDEM_SANDBOX_TOKEN is its token. Left out: one is started, as root."),
    ] = None,
    at_a_time: Annotated[int, typer.Option(help="Runs that the sandbox is asked for at a time.", min=1)] = 16,
) -> None:
    """Make test cases for programming problems, as in Kimi k1.5 (section 2.3.4).

    A generator makes inputs; the outputs are those that most reference solutions give. Everything runs in the code
    sandbox. What is written can be trained on with the reward `code` and `casesField: tests`.

    Each line of the input is a problem:

    `{"id": "sum", "prompt": "Add two numbers ...", "generator": "sum.py", "references": [{"language": "cpp", "code":
    "..."}, ...]}`

    A generator is a Python program, named relative to the input file, that may use CYaRon. It is started once for each
    case, as `sum.py CASE CASES`, with seeded random numbers, and writes an input to standard output. Where a problem
    names none, a model writes it.

    What is done is kept in OUTPUT.work: a command that was stopped or killed goes on when it is started again.
    `report.json` there says what became of each problem. Exit codes: 0 done, 1 no problem is kept, 2 it cannot be done,
    130 stopped.

    Examples:

    - `tandem data testcases problems.jsonl train.jsonl`
    - `tandem data testcases problems.jsonl train.jsonl --least-cases 40`
    - `tandem data testcases problems.jsonl train.jsonl --model-url http://localhost:8000/v1 --model qwen3`
    """
    import os

    from rich.console import Console
    from tandem_core.errors import TandemError

    from tandem_local.testcases import Authorship, CaseRequest, run_request

    if (model_url is None) != (model is None):
        raise TandemError("a model needs both --model-url and --model")
    request = CaseRequest(
        problems=problems,
        output=output,
        language=language,
        rules=Rules(
            cases=cases,
            references=references,
            agree=agree,
            passing=passing,
            least_cases=least_cases,
            seed=seed,
            checker=checker,
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_mebibytes << 20,
        ),
        authorship=None
        if model_url is None or model is None
        else Authorship(model_url, model, os.environ.get("OPENAI_API_KEY"), attempts),
        sandbox_url=sandbox_url,
        at_a_time=at_a_time,
    )
    raise typer.Exit(run_request(request, Console()))
