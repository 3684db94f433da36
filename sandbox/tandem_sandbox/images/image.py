"""What an image is."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageDescription(BaseModel):
    """What is noted beside an image's files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    """Where it comes from, for people."""
    created: datetime
    """When it was made."""
    path: str = DEFAULT_PATH
    """PATH of its programs."""
    environment: Mapping[str, str] = Field(default_factory=dict)
    """More of its environment."""


class Image(BaseModel):
    """An image that can be run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Its name in requests."""
    root: Path
    """The root file system."""
    path: str = DEFAULT_PATH
    """PATH of its programs."""
    environment: Mapping[str, str] = Field(default_factory=dict)
    """More of its environment."""
    binds: Mapping[str, Path] = Field(default_factory=dict)
    """Folders of this machine that it shows, read-only: where, without the first slash -> what."""

    def find(self, program: str) -> bool:
        """Whether there is such a program on its PATH. Links that leave the image are taken as they are."""
        return any(self._exists(f"{folder.strip('/')}/{program}") for folder in self.path.split(":"))

    def place(self, path: str) -> Path:
        """Where a path of the image, without the first slash, lies on this machine."""
        for target in sorted(self.binds, key=len, reverse=True):
            if path == target or path.startswith(f"{target}/"):
                return self.binds[target] / path[len(target) :].lstrip("/")
        return self.root / path

    def _exists(self, path: str) -> bool:
        place = self.place(path)
        return place.is_symlink() or place.is_file()
