"""A Prometheus of one's own, and what it answers."""

import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from tandem_core.errors import TandemError

from tools.free_ports import find_free_ports

RULES = Path(__file__).parents[2] / "helm" / "tandem" / "files" / "alerts.yaml"
SCRAPE_SECONDS = 2
RATE_SECONDS = 20
"""$__rate_interval: what Grafana makes of the interval of scrapes, and of the width of a picture."""
STEP_SECONDS = 2
_START_SECONDS = 30.0
_VARIABLE = re.compile(r"\$(namespace|rljob)\b")


@dataclass(frozen=True)
class Target:
    """What is scraped."""

    addresses: tuple[str, ...]
    """host:port of /metrics."""
    labels: Mapping[str, str]
    token_file: Path | None = None


@dataclass(frozen=True)
class Series:
    """One line of a picture."""

    labels: Mapping[str, str]
    times: tuple[float, ...]
    """Unix seconds."""
    values: tuple[float, ...]


class Prometheus:
    """One that answers; see `serve_prometheus`."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60.0, trust_env=False)

    def query(self, expression: str, start: float, end: float) -> list[Series]:
        """What it knows from `start` to `end`, Unix seconds; without what is not a number. Raises TandemError."""
        found = self._get(
            "/api/v1/query_range",
            {"query": fill_in(expression), "start": str(start), "end": str(end), "step": str(STEP_SECONDS)},
        )
        series = (_parse_series(each) for each in found["result"])
        return [each for each in series if each.values]

    def observe_targets(self) -> dict[str, str]:
        """What went wrong at the last scrape of each address; empty: nothing."""
        return {each["scrapeUrl"]: each["lastError"] for each in self._get("/api/v1/targets", {})["activeTargets"]}

    def observe_rules(self) -> dict[str, str]:
        """The health of each alert: ok, unknown or err."""
        groups = self._get("/api/v1/rules", {})["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return self._http.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        answer = self._http.get(path, params=dict(parameters)).json()
        if answer["status"] != "success":
            raise TandemError(f"Prometheus refuses {parameters.get('query', path)}: {answer.get('error')}")
        return answer["data"]


def fill_in(expression: str) -> str:
    """An expression of a dashboard, with all jobs chosen."""
    return _VARIABLE.sub(".*", expression).replace("$__rate_interval", f"{RATE_SECONDS}s")


def build_configuration(targets: Sequence[Target]) -> dict[str, Any]:
    """prometheus.yml."""
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": f"target-{number}",
                "static_configs": [{"targets": list(target.addresses), "labels": dict(target.labels)}],
                **({"authorization": {"credentials_file": str(target.token_file)}} if target.token_file else {}),
            }
            for number, target in enumerate(targets)
        ],
    }


@contextmanager
def serve_prometheus(directory: Path, targets: Sequence[Target]) -> Iterator[Prometheus]:
    """One that scrapes `targets` and evaluates the alerts; its files go to `directory`. Raises TandemError."""
    program = shutil.which("prometheus")
    if program is None:
        raise TandemError(
            "there is no prometheus: install Debian's package of that name (tools/install-debian-packages)"
        )
    (port,) = find_free_ports(1)
    configuration = directory / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(build_configuration(targets)))
    command = [program, f"--config.file={configuration}", f"--storage.tsdb.path={directory / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        found = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + _START_SECONDS
        while not found.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise TandemError(f"Prometheus does not start: {(directory / 'prometheus.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait(30)


def _parse_series(found: Mapping[str, Any]) -> Series:
    points = [(float(at), float(value)) for at, value in found["values"]]
    points = [(at, value) for at, value in points if math.isfinite(value)]
    return Series(found["metric"], tuple(at for at, _ in points), tuple(value for _, value in points))
