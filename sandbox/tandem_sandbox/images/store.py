"""Where images lie: a folder for each, with `rootfs` and `image.json`. A folder is there as a whole or not at all."""

import os
import re
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError
from tandem_core.errors import TandemError

from tandem_sandbox.images.image import Image, ImageDescription

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_RESERVED = ("host",)


class ImageStore:
    """The images below a sandbox's home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "images"

    def list_images(self) -> list[Image]:
        """All images, by name. Raises TandemError if one cannot be read."""
        found = sorted(self._folder.glob("*/image.json")) if self._folder.is_dir() else []
        return [self._load(path) for path in found if not path.parent.name.startswith(".")]

    def describe(self, name: str) -> ImageDescription:
        """What is noted of an image."""
        return _read_description(self._folder / name / "image.json")

    def add(self, name: str, build: Callable[[Path], ImageDescription], *, replace: bool = False) -> Image:
        """Let `build` fill a root file system, and take it in under this name. Raises TandemError."""
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise TandemError(
                f"{name!r} is no name for an image: use small letters, digits, dots and dashes, not `host`"
            )
        place = self._folder / name
        if place.exists() and not replace:
            raise TandemError(f"there is an image {name} already: say --replace, or choose another name")
        making = self._folder / f".{name}-{uuid.uuid4().hex[:8]}"
        (making / "rootfs").mkdir(parents=True)
        try:
            description = build(making / "rootfs")
            if not os.path.lexists(making / "rootfs" / "bin" / "sh"):
                raise TandemError(f"image {name} has no /bin/sh, which each container starts with")
            (making / "image.json").write_text(description.model_dump_json(indent=2))
            making.chmod(0o755)
            (making / "rootfs").chmod(0o755)
            if place.exists():
                place.rename(self._folder / f".{name}-{uuid.uuid4().hex[:8]}-old")
            making.rename(place)
        finally:
            for leftover in self._folder.glob(f".{name}-????????*"):
                shutil.rmtree(leftover, ignore_errors=True)
        return self._load(place / "image.json")

    def _load(self, path: Path) -> Image:
        description = _read_description(path)
        return Image(
            name=path.parent.name,
            root=path.parent / "rootfs",
            path=description.path,
            environment=description.environment,
        )


def describe_now(source: str) -> ImageDescription:
    """A description of an image that is made now."""
    return ImageDescription(source=source, created=datetime.now(UTC))


def _read_description(path: Path) -> ImageDescription:
    try:
        return ImageDescription.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise TandemError(
            f"the image in {path.parent} cannot be read: {error}; remove the folder, build it anew"
        ) from error
