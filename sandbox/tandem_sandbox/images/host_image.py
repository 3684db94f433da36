"""The image `host`: this machine's own programs, without anything else of the machine."""

import os
import shutil
import stat
from pathlib import Path

from tandem_sandbox.images.image import Image

NAME = "host"
_PATH = "/usr/bin:/usr/sbin"
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "lib32": "usr/lib32"}
_COPIED_FROM_ETC = ("alternatives", "java-17-openjdk", "java-21-openjdk", "java-25-openjdk", "ld.so.cache", "R", "mono")
_HIDDEN_IN_USR = ("local", "src")


def make_host_image(folder: Path) -> Image:
    """Make the root file system below `folder`: links and a little of /etc; /usr is shown read-only.

    /usr/local and /usr/src are hidden: what lies there is not the distribution's. Files that only some users of this
    machine may read cannot be read, because nobody of this machine is a user in the container.
    """
    root = folder / NAME
    for name in ("dev", "etc", "proc", "sys", "tmp", "usr", "var/tmp", "work", "empty"):
        (root / name).mkdir(parents=True)
    for name, target in _LINKS.items():
        if Path("/", name).exists():
            os.symlink(target, root / name)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nrunner:x:1000:1000::/tmp:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nrunner:x:1000:\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost sandbox\n")
    for name in _COPIED_FROM_ETC:
        _copy_readable(Path("/etc", name), root / "etc" / name)
    binds = {"usr": Path("/usr")}
    for name in _HIDDEN_IN_USR:
        if Path("/usr", name).is_dir():
            binds[f"usr/{name}"] = root / "empty"
    return Image(name=NAME, root=root, path=_PATH, binds=binds)


def _copy_readable(source: Path, place: Path) -> None:
    """What everybody may read of a file or folder, if it is there. Links stay links."""
    if source.is_symlink():
        place.symlink_to(source.readlink())
    elif not source.exists() or not source.stat().st_mode & stat.S_IROTH:
        return
    elif source.is_dir():
        place.mkdir()
        for each in source.iterdir():
            _copy_readable(each, place / each.name)
    elif source.is_file():
        shutil.copyfile(source, place)
