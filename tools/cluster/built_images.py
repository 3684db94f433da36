"""Brings the images that `make images` has built to the nodes, where pods then run from them and not from this tree."""

import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from .cluster import Cluster, ClusterError
from .programs import SOURCE

PARTS = ("operator", "rollout", "trainer", "sidecar", "sandbox")
VERSION = tomllib.loads((SOURCE.parent.parent / "pyproject.toml").read_text())["project"]["version"]


def image_name(part: str) -> str:
    """As `images/build` names it."""
    return f"localhost/tandem-{part}:{VERSION}"


def find_missing(parts: Sequence[str] = PARTS) -> list[str]:
    """Parts whose image is not built on this machine, or all of them where buildah is missing."""
    try:
        listed = subprocess.run(
            ["buildah", "images", "--format", "{{.Name}}:{{.Tag}}"], capture_output=True, text=True, check=True
        ).stdout.split()
    except (FileNotFoundError, subprocess.CalledProcessError):
        listed = []
    return [part for part in parts if image_name(part) not in listed]


def import_built_images(cluster: Cluster, nodes: int = 1, parts: Sequence[str] = PARTS) -> None:
    """One at a time, as archives are large: below the cluster's folder. Raises ClusterError."""
    if missing := find_missing(parts):
        raise ClusterError(f'not built on this machine: run `make images PARTS="{" ".join(missing)}"`, as root')
    with TemporaryDirectory(dir=cluster.directory) as directory:
        archive = Path(directory) / "image.tar"
        for part in parts:
            name = image_name(part)
            push = ["buildah", "push", "--quiet", name, f"docker-archive:{archive}:{name}"]
            done = subprocess.run(push, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise ClusterError(f"buildah did not write the image {name}: {done.stderr[-1000:]}")
            for node in range(nodes):
                cluster.import_image(archive, node)
            archive.unlink()
