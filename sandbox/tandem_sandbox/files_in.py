"""Puts files into a container's root file system while nothing runs in it."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from tandem_sandbox.bundle import INPUT_FILE, WORK_FOLDER, LanePlaces
from tandem_sandbox.job import JobFile
from tandem_sandbox.threads import FORKS

_SHARED_FOLDER = 0o1777


def write_layout(places: LanePlaces) -> None:
    """The folders that a container finds beside its image's, in the upper layer."""
    upper = f"{places.writable}/upper"
    inside = [f"{upper}/{name}" for name in (".tandem", "proc", "dev", "tmp", WORK_FOLDER.lstrip("/"))]
    *_, devices, temporary, work = inside
    shared = f"{places.writable}/shm"
    for folder in (upper, f"{places.writable}/overlay", shared, *inside):
        os.mkdir(folder, 0o755)
    for folder in inside:
        # They hide what an image has there: a link of a hostile image must not lead us, who write there, elsewhere.
        os.setxattr(folder, f"{'user' if places.unprivileged else 'trusted'}.overlay.opaque", b"y")
    os.mkdir(f"{devices}/shm")  # gVisor cannot make it
    for folder in (temporary, shared):
        os.chmod(folder, _SHARED_FOLDER)
    os.chown(work, places.host_user, places.host_user)


def write_files(places: LanePlaces, files: Mapping[str, JobFile], stdin: bytes) -> None:
    """Input and files. Raises OSError with ENOSPC if they exceed the limits of the container's files."""
    # Through the overlay, not below it: the kernel forbids changing the layers of one that is mounted.
    (places.root / INPUT_FILE.lstrip("/")).write_bytes(stdin)
    work = places.root / WORK_FOLDER.lstrip("/")
    folders: set[Path] = set()
    for name, file in files.items():
        path = work / name
        for folder in reversed(path.relative_to(work).parents[:-1]):
            _make_folder(work / folder, folders, places.host_user)
        with FORKS if file.executable else nullcontext():
            path.write_bytes(file.data)
        path.chmod(0o755 if file.executable else 0o644)
        os.chown(path, places.host_user, places.host_user)


def _make_folder(folder: Path, made: set[Path], owner: int) -> None:
    if folder not in made:
        folder.mkdir()
        os.chown(folder, owner, owner)
        made.add(folder)
