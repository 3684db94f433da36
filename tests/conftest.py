"""Which tests may run at the same time (`pytest -n 2`): files, and folders that share servers."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# A busy machine makes an example slow, not wrong.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# What vLLM finds out about a model's class takes 10 processor seconds, and is kept from one engine to the next.
os.environ.setdefault("VLLM_CACHE_ROOT", str(Path.home() / ".cache" / "vllm"))

_SHARING = ("cluster", "e2e/node", "sandbox")
"""Folders whose tests share one server."""
_ENGINES = ("e2e", "integration")
"""Folders whose tests keep all processors busy: engines and trainers."""

_LONGEST = (
    "integration/test_rendezvous.py",
    "integration/test_layouts.py",
    "integration/test_vllm_weight_load.py",
    "e2e/test_chaos.py",
)
"""Files of minutes: one that is begun last leaves the other workers idle."""


class ByServer(LoadScopeScheduling):
    """Keeps the tests of a file together, which share engines, and those of a folder that shares more.

    The first worker begins with the tests that keep processors busy, the others with those that mostly wait.
    xdist's own loadgroup does it by names that pytest 9.2 no longer lets it change, and then spreads single tests.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0]).relative_to("tests")
        return str(file.parent if str(file.parent) in _SHARING else file)

    def _assign_work_unit(self, node: WorkerController) -> None:
        first = node.gateway.id == "gw0"
        fitting = (
            scope for scope in (*_LONGEST, *self.workqueue) if scope in self.workqueue and _keeps_busy(scope) is first
        )
        self.workqueue.move_to_end(next(fitting, next(iter(self.workqueue))), last=False)
        super()._assign_work_unit(node)


def _keeps_busy(scope: str) -> bool:
    return scope not in _SHARING and str(PurePosixPath(scope).parent) in _ENGINES


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServer:
    """For the workers of `pytest -n 2`."""
    return ByServer(config, log)
