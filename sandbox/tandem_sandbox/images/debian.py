"""Images from Debian packages."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tandem_core.errors import TandemError

from tandem_sandbox.images.image import ImageDescription
from tandem_sandbox.images.store import describe_now

_NO_DOCUMENTS = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# Packages that offer alternatives, such as Java, put links to their manual there, and fail if there is no such folder.
_MANUAL_FOLDERS = 'mkdir -p "$1/usr/share/man/man1" "$1/usr/share/man/man7" "$1/usr/share/man/man8"'
_ERRORS = ("E:", "Err:", "dpkg: error")
"""How lines of apt and dpkg begin that say why."""
_TIMEOUT_SECONDS = 3600.0


def build_from_debian(root: Path, packages: Sequence[str]) -> ImageDescription:
    """Install Debian's smallest system and the packages into `root`, from this machine's own apt sources.

    The release is this machine's. Raises TandemError.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise TandemError("mmdebstrap is not installed: tools/set-up-sandbox, or apt-get install mmdebstrap")
    release = _observe_release()
    command = [program, "--verbose", "--variant=minbase", "--mode=root", "--format=directory"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _NO_DOCUMENTS]
    command += [f"--essential-hook={_MANUAL_FOLDERS}"]
    command += [f"--include={','.join(packages)}"] if packages else []
    # Without a mirror in the command it takes those of this machine.
    done = subprocess.run(  # noqa: S603 - the packages come from who may install them anyway
        [*command, release, str(root)], check=False, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = [line for line in lines if line.startswith(_ERRORS)] or lines
        raise TandemError("the image cannot be built, mmdebstrap says:\n" + "\n".join(said[-8:]))
    for leftover in ("var/lib/apt/lists", "var/cache/apt"):
        shutil.rmtree(root / leftover, ignore_errors=True)
    return describe_now(f"Debian {release}: {', '.join(packages) or 'no more packages'}")


def _observe_release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    release = values.get("VERSION_CODENAME", "").strip('"')
    if not release:
        raise TandemError("/etc/os-release names no release (VERSION_CODENAME): images are built on Debian or Ubuntu")
    return release
