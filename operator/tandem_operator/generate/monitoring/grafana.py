"""Dashboards as Grafana reads them."""

import json
from typing import Any

from tandem_core.metrics import Master

from tandem_operator.generate.monitoring.panels import Dashboard, Panel

HEIGHT = 8
"""Of a panel, in Grafana's rows."""
NUMBER_HEIGHT = 4
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "tandem"
_VERSION = 39
"""schemaVersion of Grafana 11; newer ones bring it up to date by themselves."""


def render_dashboard(dashboard: Dashboard) -> str:
    """The file that Grafana imports, or finds in a ConfigMap."""
    return json.dumps(build_dashboard(dashboard), indent=1) + "\n"


def build_dashboard(dashboard: Dashboard) -> dict[str, Any]:
    """As Grafana's JSON model."""
    return {
        "uid": f"tandem-{dashboard.name}",
        "title": f"Tandem / {dashboard.title}",
        "description": dashboard.description,
        "tags": [TAG],
        "schemaVersion": _VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _build_variables(dashboard)},
        "links": [_build_link()],
        "panels": _build_panels(dashboard),
    }


def _build_variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    if not dashboard.chooses_job:
        return [source]
    chosen = f'{Master.PHASE.name}{{namespace=~"$namespace"}}'
    return [
        source,
        _build_choice("namespace", "Namespace", f"label_values({Master.PHASE.name}, namespace)"),
        _build_choice("rljob", "RLJob", f"label_values({chosen}, rljob)"),
    ]


def _build_choice(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _build_link() -> dict[str, Any]:
    """To the other dashboards, with the same job and times."""
    return {
        "type": "dashboards",
        "title": "Tandem",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def _build_panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Left to right, row by row."""
    built: list[dict[str, Any]] = []
    top = 0
    for row in dashboard.rows:
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        built.append({"id": len(built) + 1, "type": "row", "title": row.title, "gridPos": place, "panels": []})
        left, top, tallest = 0, top + 1, 0
        for panel in row.panels:
            height = NUMBER_HEIGHT if panel.kind == "number" else HEIGHT
            if left + panel.width > 24:
                left, top, tallest = 0, top + tallest, 0
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            built.append(_build_panel(panel, len(built) + 1, place))
            left, tallest = left + panel.width, max(tallest, height)
        top += tallest
    return built


def _build_panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind in ("number", "bars")
    return {
        "id": number,
        "type": {"number": "stat", "bars": "bargauge"}.get(panel.kind, "timeseries"),
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _build_defaults(panel), "overrides": []},
        "options": _build_options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "instant": instant,
                "range": not instant,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _build_defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, **({} if panel.unit == "none" else {"min": 0})}
    if panel.kind in ("lines", "stacked"):
        stacked = panel.kind == "stacked"
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 40 if stacked else 5,
            "stacking": {"mode": "normal" if stacked else "none"},
            "showPoints": "never",
        }
    return defaults


def _build_options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "number":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name", "colorMode": "none"}
    if panel.kind == "bars":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal", "displayMode": "basic"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
