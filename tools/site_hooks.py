"""What mkdocs does beside its own: the site loads nothing from the network."""

from typing import Any

SHIM = "https://unpkg.com/iframe-worker/shim"
"""With it the search works in pages that are opened from a folder; mkdocs-material would load it from there."""
OWN_SHIM = "javascripts/iframe-worker.js"


def on_post_page(output: str, /, *, page: Any, config: Any) -> str:
    """The page, with the shim that is among the docs."""
    depth = page.url.count("/")
    return output.replace(SHIM, "../" * depth + OWN_SHIM)


def on_post_template(output: str, /, *, template_name: str, config: Any) -> str:
    """The same for the page of what is not found."""
    return output.replace(SHIM, OWN_SHIM)
