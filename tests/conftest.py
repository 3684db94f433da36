"""Which tests may run at the same time (`pytest -n 2 --dist loadgroup`): files, and folders that share servers."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine makes an example slow, not wrong.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

_SHARING = ("cluster", "e2e/node", "sandbox")
"""Folders whose tests share one server."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, which share engines, and those of a folder that shares more."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parent.as_posix()
        group = folder if folder in _SHARING else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
