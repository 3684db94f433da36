"""The page's address, and the user's browser."""

import html
import os
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path

REDIRECT = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={}"><title>Tandem</title>\n'


def page_address(host: str, port: int, token: str, *, encrypted: bool = False) -> str:
    """Where the page is. The token stands in the fragment, which browsers keep to themselves."""
    return f"{'https' if encrypted else 'http'}://{host}:{port}/ui/#token={token}"


def has_screen(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a browser could show anything to whoever typed the command."""
    drawn = sys.platform == "darwin" or environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return bool(drawn) and sys.stdout.isatty()


def tell_address(address: str, directory: Path, *, open_browser: bool) -> None:
    """Print the address, and open it if there is a screen.

    The browser is given a file in `directory` that leads there: all users of a machine see command lines, and the
    token is none of their business.
    """
    print(address, flush=True)
    if open_browser and has_screen():
        file = directory / "page.html"
        file.touch(mode=0o600)
        file.write_text(REDIRECT.format(html.escape(address)))
        webbrowser.open(file.as_uri())
