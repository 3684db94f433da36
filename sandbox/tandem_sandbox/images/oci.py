"""Images from OCI archives."""

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tandem_core.errors import TandemError

from tandem_sandbox.images.image import DEFAULT_PATH, ImageDescription
from tandem_sandbox.images.store import describe_now

_TIMEOUT_SECONDS = 3600.0
_REFERENCE = "org.opencontainers.image.ref.name"


def import_archive(root: Path, archive: Path) -> ImageDescription:
    """Unpack the only image of an OCI archive into `root`, with its PATH and environment. Raises TandemError."""
    program = shutil.which("umoci")
    if program is None:
        raise TandemError("umoci is not installed: tools/set-up-sandbox, or apt-get install umoci")
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        layout = Path(folder)
        try:
            with tarfile.open(archive) as content:
                content.extractall(layout, filter="data")
            index = json.loads((layout / "index.json").read_text())
            manifest = _only_manifest(index, archive)
            manifest.setdefault("annotations", {})[_REFERENCE] = "image"  # umoci finds images by name only
            (layout / "index.json").write_text(json.dumps(index))
            configuration = _read_configuration(layout, manifest)
        except (OSError, tarfile.TarError, ValueError, KeyError) as error:
            raise TandemError(f"{archive} is no OCI archive: {error!r}; make one with skopeo or buildah") from error
        root.rmdir()  # umoci wants to make it
        done = subprocess.run(  # noqa: S603 - our own words
            [program, "raw", "unpack", "--image", f"{layout}:image", str(root)],
            check=False, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS,
        )  # fmt: skip
    if done.returncode:
        raise TandemError(f"{archive} cannot be unpacked, umoci says: {done.stderr.strip()}")
    environment = dict(line.split("=", 1) for line in configuration.get("Env") or [] if "=" in line)
    path = environment.pop("PATH", DEFAULT_PATH)
    return describe_now(f"OCI archive {archive.name}, {manifest['digest']}").model_copy(
        update={"path": path, "environment": environment}
    )


def _only_manifest(index: dict[str, Any], archive: Path) -> dict[str, Any]:
    manifests: list[dict[str, Any]] = index["manifests"]
    if len(manifests) != 1:
        raise TandemError(
            f"{archive} holds {len(manifests)} images, expected one: copy the one you want into an archive"
        )
    return manifests[0]


def _read_configuration(layout: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    described = json.loads(_blob(layout, manifest["digest"]).read_text())
    content = json.loads(_blob(layout, described["config"]["digest"]).read_text())
    configuration: dict[str, Any] = content.get("config") or {}
    return configuration


def _blob(layout: Path, digest: str) -> Path:
    kind, _, name = digest.partition(":")
    if not name.isalnum() or not kind.isalnum():
        raise ValueError(f"{digest!r} is no digest")
    return layout / "blobs" / kind / name
