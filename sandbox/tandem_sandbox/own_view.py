"""A lane's own view of the folders that an image shows of this machine.

Locks and watches (flock, inotify) belong to a file, not to a path: through binds of one folder, programs in different
containers could talk to each other, watch each other, and keep the machine's own programs from a lock. Files that are
seen through different overlays are different files to them.
"""

from pathlib import Path

from tandem_sandbox.images.image import Image
from tandem_sandbox.mounts import SAFE, MountFlag, mount


class OwnView:
    """Overlays below a folder; they go with the service's mount namespace."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images: dict[str, Image] = {}

    def show(self, image: Image) -> Image:
        """The same image with folders of our own; they are mounted when it is first asked for. Raises OSError."""
        if image.name not in self._images:
            binds = {
                target: self._mount(f"{image.name}-{number}", source)
                for number, (target, source) in enumerate(image.binds.items())
            }
            self._images[image.name] = image.model_copy(update={"binds": binds})
        return self._images[image.name]

    def _mount(self, name: str, source: Path) -> Path:
        place, empty = self._folder / name, self._folder / "empty"
        for folder in (place, empty):
            folder.mkdir(parents=True, exist_ok=True)
        if not any(source.iterdir()):
            return empty
        # An overlay that nothing can be written to has two layers at least.
        mount("overlay", place, "overlay", SAFE | MountFlag.READ_ONLY, f"lowerdir={source}:{empty}")
        return place
