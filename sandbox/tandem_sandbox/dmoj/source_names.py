"""The language of a program by the name of its file."""

from pathlib import PurePosixPath

from tandem_core.errors import TandemError

from tandem_sandbox.languages import LANGUAGES

_BY_SUFFIX = {
    ".cc": "cpp",
    ".cxx": "cpp",
    ".R": "r",
    **{PurePosixPath(language.file).suffix: name for name, language in LANGUAGES.items()},
}


def find_language(file: str) -> str:
    """Raises TandemError."""
    suffix = PurePosixPath(file).suffix
    if suffix not in _BY_SUFFIX:
        raise TandemError(f"{file} has no ending that tells its language: {', '.join(sorted(_BY_SUFFIX))}")
    return _BY_SUFFIX[suffix]
