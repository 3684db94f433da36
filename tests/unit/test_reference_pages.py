"""The reference pages of commands, chart and HTTP APIs are complete."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from tandem_local import cli, kubectl_cli
from tandem_operator.generate.chart import render_values
from tandem_operator.settings import OperatorSettings

from tools.reference.chart import render_chart
from tools.reference.commands import render_kubectl_tandem, render_tandem
from tools.reference.http_apis import render_http_apis


def options(group: Any) -> Iterator[str]:
    for command in group.commands.values():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from options(command)
        for parameter in command.params:
            yield from (name for name in parameter.opts if name.startswith("--") and name != "--help")


@pytest.mark.parametrize(
    ("app", "name", "page"),
    [(cli.app, "tandem", render_tandem()), (kubectl_cli.app, "kubectl tandem", render_kubectl_tandem())],
    ids=["tandem", "kubectl tandem"],
)
def test_every_command_and_option_stands_in_the_reference(app: typer.Typer, name: str, page: str) -> None:
    group: Any = typer.main.get_command(app)
    shown = [f"## {name} {each}" for each, command in group.commands.items() if not command.hidden]
    assert [heading for heading in shown if heading not in page] == []
    assert [option for option in options(group) if f"`{option}`" not in page] == []
    assert f"## {name} serve" not in page


def test_every_value_of_the_chart_and_every_setting_stands_in_the_reference() -> None:
    page = render_chart()
    top = re.findall(r"^(\w+):", render_values(), re.MULTILINE)
    assert [name for name in top if f"## {name}\n" not in page and f"| `{name}` |" not in page] == []
    assert [name for name in OperatorSettings.model_fields if f"| `{name}` |" not in page] == []
    assert '| `etcd.tls.source` | `"chart"` |' in page


def test_the_http_apis_are_described_with_who_may_ask() -> None:
    page = render_http_apis()
    for path in ("GET /v1/batches/{iteration}", "POST /v1/weights/{version}/load", "POST /v1/judge", "GET /healthz"):
        assert f"### {path}\n" in page
    health = page.partition("### GET /healthz\n")[2].partition("###")[0]
    assert "No token is asked for" in health
    judge = page.partition("### POST /v1/judge\n")[2].partition("###")[0]
    assert "No token" not in judge
    assert "[JudgeRequest](#judgerequest)" in judge
    linked = set(re.findall(r"\]\(#([a-z0-9-]+)\)", page))
    assert linked <= {heading.lower() for heading in re.findall(r"^#### (\w+)$", page, re.MULTILINE)}
