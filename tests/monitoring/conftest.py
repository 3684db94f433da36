"""Prometheus and promtool, which tools/install-debian-packages installs."""

import os
import shutil

import pytest


def find_program(name: str) -> str:
    """Its path; without it, tests are left out."""
    found = shutil.which(name)
    if found is None:
        # In CI, a test that is left out is a failure.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"LEFT OUT, no {name}: install Debian's package prometheus (tools/install-debian-packages)"
        )
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    return find_program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return find_program("prometheus")
