"""Helm, which is built like the programs of the test cluster."""

import os

import pytest

from tools.cluster.programs import HELM, ProgramsMissing, find_programs


@pytest.fixture(scope="session", autouse=True)
def helm() -> None:
    try:
        find_programs((HELM,))
    except ProgramsMissing as error:
        # In CI, a test that is left out is a failure.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"LEFT OUT, no helm: {error}")
