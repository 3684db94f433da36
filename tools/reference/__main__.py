"""`python -m tools.reference`: writes the pages of commands, chart and HTTP APIs, or with --check says which are
out of date. Those of RLJob and metrics are the operator's (`python -m tandem_operator.generate`)."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from .chart import render_chart
from .commands import render_kubectl_tandem, render_tandem
from .http_apis import render_http_apis

ROOT = Path(__file__).parents[2]
FILES: dict[str, Callable[[], str]] = {
    "docs/reference/tandem.md": render_tandem,
    "docs/reference/kubectl-tandem.md": render_kubectl_tandem,
    "docs/reference/helm.md": render_chart,
    "docs/reference/http-apis.md": render_http_apis,
}


def main() -> int:
    """Exit code: 1 if --check found a page that differs from what would be written."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    options = parser.parse_args()
    pages = {name: render() for name, render in FILES.items()}
    stale = [name for name, text in pages.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    for name in stale:
        if options.check:
            print(f"{name} is out of date: run `python -m tools.reference`", file=sys.stderr)
        else:
            (ROOT / name).write_text(pages[name])
            print(f"wrote {name}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
