"""Making and removing a pod's directories."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from tandem_local.volumes import LocalVolume, VolumeKind

_PRIVATE = 0o700
_SECRET_FILE = 0o600


def make_volumes(volumes: Iterable[LocalVolume], temporary: Path) -> None:
    """Make all directories, empty ones where they belong to the pod, and write the files that are known."""
    temporary.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    for volume in volumes:
        if volume.kind in (VolumeKind.POD, VolumeKind.FILES):
            shutil.rmtree(volume.path, ignore_errors=True)
        if volume.kind is not VolumeKind.HOST:
            volume.path.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
        for name, content in volume.files.items():
            path = volume.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=_SECRET_FILE)
            path.write_bytes(content)


def remove_volumes(volumes: Iterable[LocalVolume], temporary: Path) -> None:
    """Remove what goes with the pod."""
    for volume in volumes:
        if volume.kind in (VolumeKind.POD, VolumeKind.FILES):
            shutil.rmtree(volume.path, ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)
