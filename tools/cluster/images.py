"""The images of the cluster, which are made here and not pulled: `localhost/pause:1` and `localhost/tandem:1`.

Neither holds programs but `pause`: the nodes show the machine's /usr, its Python and this tree to every container, read
only and where they are on the machine (`machine_folders`), so that pods run the project as it is installed.
"""

import hashlib
import io
import json
import platform
import sys
import tarfile
from pathlib import Path

from .programs import SOURCE

PAUSE_IMAGE = "localhost/pause:1"
TANDEM_IMAGE = "localhost/tandem:1"
_FOLDERS = ("usr", "etc", "proc", "sys", "dev", "root", "var", "run", "tmp")
_LINKS = ("bin", "lib", "lib64", "sbin")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def machine_folders(programs: Path) -> list[Path]:
    """Folders of the machine that every container has, none below another."""
    wanted = {Path("/usr"), Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), SOURCE.parent.parent, programs}
    return sorted(each for each in wanted if not any(parent in wanted for parent in each.parents))


def write_images(archive: Path, programs: Path, pause: Path) -> None:
    """Both images as one archive that `ctr images import` takes."""
    layer = _build_layer(pause.read_bytes())
    digest = hashlib.sha256(layer).hexdigest()
    path = f"PATH={programs}:{sys.prefix}/bin:/usr/bin:/usr/sbin"
    images = [
        (PAUSE_IMAGE, _build_config(digest, {"Entrypoint": ["/pause"]})),
        (TANDEM_IMAGE, _build_config(digest, {"Env": [path, "PYTHONDONTWRITEBYTECODE=1"]})),
    ]
    manifest = []
    with tarfile.open(archive, "w") as tar:
        _add_file(tar, f"{digest}/layer.tar", layer, 0o644)
        for name, config in images:
            file = f"{hashlib.sha256(config).hexdigest()}.json"
            _add_file(tar, file, config, 0o644)
            manifest.append({"Config": file, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]})
        _add_file(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)


def _build_layer(pause: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in _FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for link in _LINKS:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{link}"
            tar.addfile(entry)
        _add_file(tar, "pause", pause, 0o755)
        _add_file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\ntandem:x:1000:1000::/tmp:/bin/false\n", 0o644)
        _add_file(tar, "etc/group", b"root:x:0:\ntandem:x:1000:\n", 0o644)
        _add_file(tar, "etc/nsswitch.conf", b"hosts: files dns\n", 0o644)
    return buffer.getvalue()


def _build_config(layer: str, config: dict[str, list[str]]) -> bytes:
    image = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
    }
    return json.dumps(image, sort_keys=True).encode()


def _add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
