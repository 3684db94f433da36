"""Alerts and dashboards, made from the names of the metrics."""

from collections.abc import Callable
from functools import partial

from tandem_operator.generate.monitoring.alerts import render_alerts
from tandem_operator.generate.monitoring.fleet import FLEET
from tandem_operator.generate.monitoring.grafana import render_dashboard
from tandem_operator.generate.monitoring.handoff import HANDOFF
from tandem_operator.generate.monitoring.job import JOB
from tandem_operator.generate.monitoring.operator import OPERATOR
from tandem_operator.generate.monitoring.rollouts import ROLLOUTS

DASHBOARDS = (FLEET, JOB, HANDOFF, ROLLOUTS, OPERATOR)
MONITORING_FILES: dict[str, Callable[[], str]] = {
    "helm/tandem/files/alerts.yaml": render_alerts,
    **{f"helm/tandem/files/dashboards/{each.name}.json": partial(render_dashboard, each) for each in DASHBOARDS},
}
"""Every file that is made here, below the root of the project."""
