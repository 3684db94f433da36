"""Control groups of version 2, in a virtual machine that has no others. Its processors are translated: it is slow."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELD = "root and (failure_has_its_verdict or memory_is_what or five_percent) and not MLE"
"""Of the tests of the service; a slow machine does not fill its memory within the time of the one that is left out."""


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_limits_are_held_by_version_2() -> None:
    if shutil.which("qemu-system-x86_64") is None or shutil.which("busybox") is None:
        pytest.skip("LEFT OUT: no virtual machine: apt-get install qemu-system-x86 busybox-static")
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long", "-k"]
    test += [HELD, "tests/sandbox/test_service.py"]
    done = subprocess.run([ROOT / "tools/virtual-machine", *test], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
