"""The dashboards: what they ask for exists, and they fit together."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tandem_core.metrics import PARTS, list_metrics
from tandem_operator.generate.monitoring import DASHBOARDS
from tandem_operator.generate.monitoring.alerts import ALERTS
from tandem_operator.generate.monitoring.grafana import build_dashboard
from tandem_operator.generate.monitoring.panels import Dashboard

METRICS = {name: metric for part in PARTS for metric in list_metrics(part) for name in metric.series}
OF_PROMETHEUS = {"ALERTS": {"alertname", "alertstate"}}
OF_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
ADDED = {"namespace", "rljob", "component", "pod", "instance", "le"}
"""Labels that Prometheus adds when it scrapes, and that of histograms."""
NAME = re.compile(r"(?<![\w$:.{\"])(tandem_\w+|vllm:\w+|process_\w+|ALERTS)(\{[^}]*\})?")
GROUPING = re.compile(r"(?:by|on|group_left|ignoring|without) \(([^)]*)\)")
FILES = Path(__file__).parents[2] / "helm" / "tandem" / "files" / "dashboards"
BOARDS = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
EXPRESSIONS = [
    *(query.expression for board in DASHBOARDS for panel in board.panels for query in panel.queries),
    *(alert.expression for alert in ALERTS),
]


def labels_of(name: str) -> set[str]:
    if name in OF_PROMETHEUS:
        return OF_PROMETHEUS[name]
    return ADDED | (set() if name in OF_PROCESS else set(METRICS[name].labels))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_only_metrics_and_labels_that_exist_are_asked_for(expression: str) -> None:
    found = NAME.findall(expression)
    assert found
    known: set[str] = set()
    for name, chosen in found:
        assert name in METRICS or name in OF_PROMETHEUS or name in OF_PROCESS, name
        assert set(re.findall(r"(\w+)\s*[=!]", chosen)) <= labels_of(name), (name, chosen)
        known |= labels_of(name)
    for group in GROUPING.findall(expression):
        assert set(filter(None, (label.strip() for label in group.split(",")))) <= known, group


def test_a_wrong_name_would_be_found() -> None:
    (name, chosen), *_ = NAME.findall('rate(tandem_phases_seconds_sum{phase="Rollout"}[1m])')
    assert name not in METRICS
    assert chosen == '{phase="Rollout"}'


def test_every_metric_is_shown_somewhere() -> None:
    shown = {name for expression in EXPRESSIONS for name, _ in NAME.findall(expression)}
    assert not {metric.name for metric in METRICS.values() if not shown & set(metric.series)}


@BOARDS
def test_every_title_is_a_question_that_is_asked_once(dashboard: Dashboard) -> None:
    titles = [panel.title for panel in dashboard.panels]
    assert all(title.endswith("?") for title in titles)
    assert len(titles) == len(set(titles))


@BOARDS
def test_panels_do_not_overlap_and_fill_the_width(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in build_dashboard(dashboard)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns, rows = (range(place[start], place[start] + place[size]) for start, size in ("xw", "yh"))
        cells = {(column, row) for column in columns for row in rows}
        assert not cells & taken
        taken |= cells


@BOARDS
def test_variables_are_defined_and_used(dashboard: Dashboard) -> None:
    built = build_dashboard(dashboard)
    defined = {variable["name"] for variable in built["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", json.dumps(built))) - {"__rate_interval", "__all"}
    assert used == defined


def test_dashboards_link_to_each_other() -> None:
    built = [build_dashboard(dashboard) for dashboard in DASHBOARDS]
    assert len({board["uid"] for board in built}) == len(built)
    for board in built:
        (link,) = board["links"]
        assert set(link["tags"]) <= set(board["tags"])
        assert link["includeVars"]
        assert link["keepTime"]


@BOARDS
def test_identifiers_are_unique(dashboard: Dashboard) -> None:
    panels: list[dict[str, Any]] = build_dashboard(dashboard)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(references) == len(set(references))


def test_the_files_are_those_of_the_dashboards() -> None:
    found = {file.stem: json.loads(file.read_text()) for file in FILES.glob("*.json")}
    assert found == {dashboard.name: build_dashboard(dashboard) for dashboard in DASHBOARDS}
