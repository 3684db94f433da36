"""Which tests may run at the same time (`pytest -n 2`): files, and folders that share servers."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# A busy machine makes an example slow, not wrong.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

_SHARING = ("cluster", "e2e/node", "sandbox")
"""Folders whose tests share one server."""


class ByServer(LoadScopeScheduling):
    """Keeps the tests of a file together, which share engines, and those of a folder that shares more.

    xdist's own loadgroup does it by names that pytest 9.2 no longer lets it change, and then spreads single tests.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0]).relative_to("tests")
        return str(file.parent if str(file.parent) in _SHARING else file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServer:
    """For the workers of `pytest -n 2`."""
    return ByServer(config, log)
