"""`python -m tandem_operator.generate`: writes the generated files, or with --check says which are out of date."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tandem_operator.generate.chart import render_chart_crd, render_rules, render_values, render_values_schema
from tandem_operator.generate.metrics import render_metrics_page
from tandem_operator.generate.monitoring import MONITORING_FILES
from tandem_operator.generate.reference import render_reference
from tandem_operator.generate.troubleshooting import render_troubleshooting

FILES: dict[str, Callable[[], str]] = {
    "helm/tandem/files/crd.yaml": render_chart_crd,
    "helm/tandem/files/rules.yaml": render_rules,
    **MONITORING_FILES,
    "helm/tandem/values.yaml": render_values,
    "helm/tandem/values.schema.json": render_values_schema,
    "docs/reference/metrics.md": render_metrics_page,
    "docs/reference/rljob.md": render_reference,
    "docs/troubleshooting.md": render_troubleshooting,
}
"""Every generated file below the root of the project."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if --check found a file that differs from what would be written."""
    parser = argparse.ArgumentParser(prog="python -m tandem_operator.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is out of date")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the project's root (default: here)")
    options = parser.parse_args(arguments)
    stale = [name for name, render in FILES.items() if _read(options.root / name) != render()]
    if options.check:
        for name in stale:
            print(f"{name} is out of date: run `python -m tandem_operator.generate`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        path: Path = options.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name]())
        print(f"wrote {name}")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
