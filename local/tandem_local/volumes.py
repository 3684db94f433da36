"""From a pod's volumes and mounts to directories of this machine. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tandem_local.kubernetes_values import KubernetesObject, ObjectIndex, UnsupportedObject
from tandem_local.places import Places


class VolumeKind(StrEnum):
    """What happens to a volume's directory."""

    POD = "pod"
    """Made empty for the pod, removed with it."""
    FILES = "files"
    """Holds a ConfigMap's or Secret's entries, removed with the pod."""
    KEPT = "kept"
    """A claim: outlives the pod and the run."""
    HOST = "host"
    """A directory of the machine; left alone."""


@dataclass(frozen=True)
class LocalVolume:
    """A volume and its directory."""

    name: str
    kind: VolumeKind
    path: Path
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Mount:
    """Where a container expects a volume, and where that is on this machine."""

    mount_path: str
    local_path: Path


@dataclass(frozen=True)
class PodPlace:
    """The directories of one pod."""

    places: Places
    pod: str
    number: int

    @property
    def temporary(self) -> Path:
        """The pod's /tmp."""
        return self.places.temporary / str(self.number)

    @property
    def memory(self) -> Path:
        """The pod's memory-backed volumes."""
        return self.places.memory / self.pod


def build_volume(
    volume: KubernetesObject, temporary_volumes: set[str], place: PodPlace, index: ObjectIndex
) -> LocalVolume:
    """The directory for a volume of a pod; `temporary_volumes` are those that the pod mounts at /tmp.

    Raises UnsupportedObject for kinds of volumes that one machine has no counterpart of.
    """
    name = str(volume["name"])
    directory = place.places.volumes / "pods" / place.pod / name
    match volume:
        case {"emptyDir": _} if name in temporary_volumes:
            return LocalVolume(name, VolumeKind.POD, place.temporary)
        case {"emptyDir": {"medium": "Memory"}}:
            return LocalVolume(name, VolumeKind.POD, place.memory / name)
        case {"emptyDir": _}:
            return LocalVolume(name, VolumeKind.POD, directory)
        case {"configMap": source}:
            return LocalVolume(name, VolumeKind.FILES, directory, _files("ConfigMap", source["name"], source, index))
        case {"secret": source}:
            return LocalVolume(name, VolumeKind.FILES, directory, _files("Secret", source["secretName"], source, index))
        case {"projected": {"sources": sources}}:
            return LocalVolume(name, VolumeKind.FILES, directory, _projected(name, sources, index))
        case {"persistentVolumeClaim": {"claimName": claim}}:
            return LocalVolume(name, VolumeKind.KEPT, place.places.volumes / "claims" / claim)
        case {"hostPath": {"path": path}}:
            return LocalVolume(name, VolumeKind.HOST, Path(path))
    kind = next((key for key in volume if key != "name"), "none")
    raise UnsupportedObject(
        f"pod {place.pod}: volume {name!r} is of kind {kind}, which one machine does not have: use emptyDir, "
        "configMap, secret, projected, persistentVolumeClaim or hostPath in spec.pods"
    )


def build_mounts(container: KubernetesObject, volumes: Mapping[str, LocalVolume]) -> tuple[Mount, ...]:
    """The container's mounts, the innermost first."""
    mounts = []
    for mount in container.get("volumeMounts", []):
        path = volumes[mount["name"]].path
        mounts.append(Mount(mount["mountPath"].rstrip("/"), path / mount.get("subPath", "")))
    return tuple(sorted(mounts, key=lambda mount: len(mount.mount_path), reverse=True))


def translate_path(text: str, mounts: Sequence[Mount]) -> str:
    """`text` with a mount path at its beginning replaced by the directory on this machine; also after "--option="."""
    option, separator, value = text.partition("=")
    if text.startswith("-") and separator:
        return option + separator + translate_path(value, mounts)
    for mount in mounts:
        if text == mount.mount_path or text.startswith(mount.mount_path + "/"):
            return str(mount.local_path) + text[len(mount.mount_path) :]
    return text


def _files(kind: str, name: str, source: KubernetesObject, index: ObjectIndex) -> dict[str, bytes]:
    entries = index.data(kind, name, optional=bool(source.get("optional")))
    items: list[dict[str, Any]] | None = source.get("items")
    if items is None:
        return entries
    missing = sorted(item["key"] for item in items if item["key"] not in entries)
    if missing and not source.get("optional"):
        raise UnsupportedObject(f"{kind} {name!r} has no key {', '.join(missing)}; it has {', '.join(sorted(entries))}")
    return {item["path"]: entries[item["key"]] for item in items if item["key"] in entries}


def _projected(volume: str, sources: Sequence[KubernetesObject], index: ObjectIndex) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for source in sources:
        match source:
            case {"configMap": part}:
                files |= _files("ConfigMap", part["name"], part, index)
            case {"secret": part}:
                files |= _files("Secret", part["name"], part, index)
            case _:
                raise UnsupportedObject(
                    f"volume {volume!r} projects {', '.join(source)}, which one machine does not have: "
                    "only configMap and secret can be projected"
                )
    return files
