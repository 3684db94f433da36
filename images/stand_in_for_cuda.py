"""`python stand_in_for_cuda.py FOLDER`: small libraries in place of CUDA's, beside those of torch in FOLDER.

The package index has torch for CPUs only as torch for CUDA, which does not start without CUDA's libraries: 2.7 GB that
nothing uses where no GPU is. The stand-ins have the functions that torch names. Each answers 100, cudaErrorNoDevice, so
that torch says that there is no GPU. It needs gcc and binutils.
"""
# ruff: noqa: S603, S607

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

_LOADED = ("libtorch_global_deps.so", "libtorch_python.so", "libtorch_cuda_linalg.so")
"""Libraries of torch that are loaded by themselves; with them come the others."""
_PYTHON = ("Py", "_Py")
"""What the names of Python's own functions begin with: its program has them."""
_MISSING = re.compile(r"^\s*(\S+) => not found$", re.MULTILINE)
_UNDEFINED = re.compile(r"^undefined symbol: (\w+)(?:, version (\S+))?\s", re.MULTILINE)
_LIBRARY_VERSIONS = re.compile(r"Version: \d+ +File: (\S+) .*\n((?:.* Name: \S+ .*\n)*)")
_VERSION = re.compile(r" Name: (\S+) ")


def find_missing(libraries: list[Path]) -> tuple[set[str], set[tuple[str, str]]]:
    """What `libraries` are linked with and is not there: libraries, and functions by name and version ('' for none)."""
    done = subprocess.run(["ldd", "-r", *libraries], capture_output=True, text=True, check=True)
    text = done.stdout + done.stderr
    functions = {(name, version) for name, version in _UNDEFINED.findall(text) if not name.startswith(_PYTHON)}
    return set(_MISSING.findall(text)), functions


def find_owners(libraries: list[Path]) -> dict[str, str]:
    """By each version's name: the library in which `libraries` look for it."""
    text = subprocess.run(["readelf", "-W", "-V", *libraries], capture_output=True, text=True, check=True).stdout
    found = _LIBRARY_VERSIONS.findall(text)
    return {version: library for library, versions in found for version in _VERSION.findall(versions)}


def build_stand_in(file: Path, functions: dict[str, list[str]]) -> None:
    """A library with functions by their version, '' for none."""
    with tempfile.TemporaryDirectory() as folder:
        source, versions = Path(folder) / "source.c", Path(folder) / "versions"
        names = [name for each in functions.values() for name in each]
        source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in names))
        blocks = [f"{name} {{ {'; '.join(each)}; }};\n" for name, each in functions.items() if name]
        versions.write_text("".join(blocks) or "{ global: *; };\n")
        flags = ["-shared", "-fPIC", "-s", f"-Wl,-soname,{file.name}", f"-Wl,--version-script={versions}"]
        subprocess.run(["gcc", *flags, "-o", file, source], check=True)


def main() -> None:
    folder = Path(sys.argv[1])
    loaded = [folder / name for name in _LOADED]
    missing, lacking = find_missing(loaded)
    owners = find_owners(list(folder.glob("*.so")))
    # A function without a version is found in whichever library it is.
    any_library = min(missing - set(owners.values()))
    functions: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in missing}
    for name, version in sorted(lacking):
        functions[owners[version] if version else any_library][version].append(name)
    for name in missing:
        build_stand_in(folder / name, functions[name])
    if any(left := find_missing(loaded)):
        sys.exit(f"{folder}: still without {left}")
    print(f"{len(missing)} libraries with {len(lacking)} functions stand in for CUDA's")


if __name__ == "__main__":
    main()
