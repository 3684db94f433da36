"""The files of a problem: in its folder, or in the zip archive that its init.yml names."""

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tandem_core.errors import TandemError

_MOST_BYTES = 256 << 20


class DataFiles:
    """Reads files by name; those of the folder come first."""

    def __init__(self, folder: Path, archive: str | None) -> None:
        """Raises TandemError if the archive cannot be read."""
        self._folder = folder
        self._archive: zipfile.ZipFile | None = None
        if archive is not None:
            try:
                self._archive = zipfile.ZipFile(folder / _check_name(archive))
            except (OSError, zipfile.BadZipFile) as error:
                raise TandemError(f"archive {archive} of {folder} cannot be read: {error}") from error

    @property
    def names(self) -> Sequence[str]:
        """Names in the archive, or below the folder if there is none."""
        if self._archive is not None:
            return [info.filename for info in self._archive.infolist() if not info.is_dir()]
        found = (path for path in self._folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self._folder).as_posix() for path in found)

    def read(self, name: str) -> bytes:
        """The content. Raises TandemError."""
        path = self._folder / _check_name(name)
        try:
            if path.is_file():
                return path.read_bytes()
            if self._archive is None:
                raise TandemError(f"there is no file {name} in {self._folder}, which init.yml names")
            info = self._archive.getinfo(name)
            if info.file_size > _MOST_BYTES:
                raise TandemError(
                    f"{name} in the archive has {info.file_size} bytes: at most {_MOST_BYTES} can be used"
                )
            return self._archive.read(info)
        except KeyError:
            raise TandemError(
                f"there is no file {name} in {self._folder} and its archive, which init.yml names"
            ) from None
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise TandemError(f"{name} of {self._folder} cannot be read: {error}") from error


def normalize(data: bytes, *, binary: bool) -> bytes:
    """As DMOJ hands text to programs and checkers: lines end with a line feed, the last one too."""
    if binary or not data:
        return data
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data if data.endswith(b"\n") else data + b"\n"


def _check_name(name: str) -> str:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise TandemError(f"init.yml names the file {name!r}: it must lie below the problem's folder")
    return name
