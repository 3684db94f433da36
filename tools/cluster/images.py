"""The images of the cluster, which are made here and not pulled: `localhost/pause:1` and `localhost/base:1`.

Base has a static busybox, and /bin, /lib, /lib64 and /sbin as links into /usr: a pod that mounts the machine's /usr
there runs the machine's programs.
"""

import hashlib
import io
import json
import platform
import shutil
import tarfile
from pathlib import Path

from .programs import ProgramsMissing

PAUSE = "localhost/pause:1"
BASE = "localhost/base:1"
_FOLDERS = ("usr", "busybox", "etc", "proc", "sys", "dev", "root", "var", "var/run", "run", "opt", "mnt")
_COMMANDS = (
    "sh cat echo ls sleep wget nslookup nc ps env kill hostname id ip ping mount df free grep true false date head"
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_images(archive: Path, pause: Path) -> None:
    """Both images as one archive that `ctr images import` takes. Raises ProgramsMissing without a static busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise ProgramsMissing("busybox is not on PATH: run tools/install-debian-packages as root (busybox-static)")
    layer = _build_layer(Path(busybox).read_bytes(), pause.read_bytes())
    digest = hashlib.sha256(layer).hexdigest()
    images = [(PAUSE, _build_config(digest, {"Entrypoint": ["/pause"]})), (BASE, _build_config(digest, {}))]
    manifest = []
    with tarfile.open(archive, "w") as tar:
        _add_file(tar, f"{digest}/layer.tar", layer, 0o644)
        for name, config in images:
            file = f"{hashlib.sha256(config).hexdigest()}.json"
            _add_file(tar, file, config, 0o644)
            manifest.append({"Config": file, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]})
        _add_file(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)


def _build_layer(busybox: bytes, pause: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in (*_FOLDERS, "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for folder in ("bin", "sbin", "lib", "lib64"):
            _add_link(tar, folder, f"usr/{folder}")
        _add_file(tar, "busybox/busybox", busybox, 0o755)
        for command in _COMMANDS.split():
            _add_link(tar, f"busybox/{command}", "busybox")
        _add_file(tar, "pause", pause, 0o755)
        _add_file(tar, "etc/passwd", b"root:x:0:0:root:/root:/busybox/sh\ntandem:x:1000:1000::/tmp:/bin/false\n", 0o644)
        _add_file(tar, "etc/group", b"root:x:0:\ntandem:x:1000:\n", 0o644)
        _add_file(tar, "etc/nsswitch.conf", b"hosts: files dns\n", 0o644)
    return buffer.getvalue()


def _build_config(layer: str, entry: dict[str, list[str]]) -> bytes:
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Env": ["PATH=/busybox:/usr/local/bin:/usr/bin:/usr/sbin"], **entry},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
    }
    return json.dumps(config, sort_keys=True).encode()


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
