"""The alert rules, tried by promtool on made-up series, and the pages that they link to."""

import subprocess
from pathlib import Path

import pytest
import yaml
from tandem_operator.generate.monitoring.alerts import ALERTS, Alert

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "alerts.yaml"
SECTIONS = ("**What it says.**", "**What follows.**", "## Look", "## Do")


def test_every_alert_fires_when_it_should_and_not_before(promtool: str) -> None:
    done = subprocess.run([promtool, "test", "rules", str(CASES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong(promtool: str) -> None:
    rules = ROOT / "helm" / "tandem" / "files" / "alerts.yaml"
    done = subprocess.run([promtool, "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_each_is_seen_to_fire_and_to_stay_quiet() -> None:
    checks = [check for test in yaml.safe_load(CASES.read_text())["tests"] for check in test["alert_rule_test"]]
    for alert in ALERTS:
        own = [bool(check["exp_alerts"]) for check in checks if check["alertname"] == alert.name]
        assert {True, False} <= set(own), alert.name


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_each_has_a_runbook(alert: Alert) -> None:
    page = (ROOT / alert.runbook).read_text()
    assert page.startswith(f"# {alert.name}\n")
    places = [page.find(section) for section in SECTIONS]
    assert -1 not in places
    assert places == sorted(places)
    for link in (part.partition(")")[0] for part in page.split("](")[1:]):
        assert (ROOT / "docs" / "runbooks" / link.partition("#")[0]).is_file(), link


def test_no_runbook_is_left_of_an_alert_that_is_gone() -> None:
    pages = {page.name for page in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert pages == {Path(alert.runbook).name for alert in ALERTS}
