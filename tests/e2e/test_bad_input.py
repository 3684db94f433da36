"""What a user does wrong ends the run with one clear message and leaves nothing behind."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"


@dataclass(frozen=True)
class Mistake:
    """Settings that cannot work, and what the message must say."""

    name: str
    settings: tuple[str, ...]
    expected: tuple[str, ...]


REWARD = "spec.rewards.scorers=[{type: function, function: 'bad_rewards:%s'}]"
MISTAKES = [
    Mistake("long-prompt", ("spec.model.scratch.maxLength=8",), ("prompt", "8")),
    Mistake("raising-reward", (REWARD % "raises",), ("bad_rewards:raises", "no such planet")),
    Mistake("hanging-reward", (REWARD % "hangs", "spec.rewards.timeoutSeconds=2"), ("bad_rewards:hangs", "2 s")),
    Mistake("no-memory", ("spec.model.scratch.hiddenSize=65536", "spec.model.scratch.layers=64"), ("memory", "GiB")),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("inputs")
    (directory / "bad_rewards.py").write_text(
        "import time\n\n\n"
        "def raises(prompt, response, answer, row):\n    raise ValueError('no such planet')\n\n\n"
        "def hangs(prompt, response, answer, row):\n    time.sleep(3600)\n"
    )
    return directory


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_and_nothing_is_left(mistake: Mistake, inputs: Path, tmp_path: Path) -> None:
    arguments = [part for setting in (*mistake.settings, "spec.warmup.steps=1") for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "tandem_local", "run", str(EXAMPLE), *arguments],
        env=os.environ | {"TANDEM_HOME": str(tmp_path), "PYTHONPATH": str(inputs), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode in (1, 2), output[-3000:]
    assert "Traceback" not in output, output[-3000:]
    for text in mistake.expected:
        assert text in output, output[-3000:]
    for state in tmp_path.glob("runs/*/state.json"):
        assert not (Path("/dev/shm") / f"tandem-{json.loads(state.read_text())['run_id']}").exists()
