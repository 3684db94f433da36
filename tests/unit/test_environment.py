"""How containers learn who they are."""

from pathlib import Path

import pytest
from tandem_core.environment import PodEnvironment
from tandem_core.errors import TandemError


def test_all_variables_are_read_and_missing_ones_are_named(tmp_path: Path) -> None:
    variables = {f"TANDEM_{name.upper()}": str(tmp_path / name) for name in PodEnvironment.model_fields}
    environment = PodEnvironment.from_environment(variables)
    assert environment.shm_dir == tmp_path / "shm_dir"
    del variables["TANDEM_POD_IP"]
    with pytest.raises(TandemError, match="TANDEM_POD_IP"):
        PodEnvironment.from_environment(variables)


def test_the_token_is_read_from_its_file(tmp_path: Path) -> None:
    variables = {f"TANDEM_{name.upper()}": str(tmp_path / name) for name in PodEnvironment.model_fields}
    environment = PodEnvironment.from_environment(variables)
    with pytest.raises(TandemError, match="token_file"):
        environment.token()
    (tmp_path / "token_file").write_text("secret\n")
    assert environment.token() == "secret"
