"""`python tools/cluster/runc_with_order.py PROGRAM ...`: runc, with mounts in an order in which none covers another.
Containers of built images get none of the machine's programs.

containerd mounts what every container has, this tree among it, before what the pod asks for: a pod's own /tmp would
cover a tree that lies below /tmp.
"""

import json
import os
import sys
from pathlib import Path

IMAGE_ANNOTATION = "io.kubernetes.cri.image-name"
BUILT_IMAGES = "localhost/tandem-"
"""What the names of images that `make images` has built begin with: they bring their own programs."""


def change_mounts(config: Path) -> None:
    """Put mounts below others after them, in the bundle's config.json; hide the machine from built images."""
    spec = json.loads(config.read_text())
    mounts = sorted(spec["mounts"], key=lambda mount: len(Path(mount["destination"]).parts))
    if spec.get("annotations", {}).get(IMAGE_ANNOTATION, "").startswith(BUILT_IMAGES):
        mounts = [mount for mount in mounts if mount["destination"] != mount.get("source")]  # as node.py shows folders
    config.write_text(json.dumps(spec | {"mounts": mounts}))


def main() -> None:
    """Become runc."""
    program, *arguments = sys.argv[1:]
    if "create" in arguments:
        change_mounts(Path(arguments[arguments.index("--bundle") + 1]) / "config.json")
    os.execv(program, [program, *arguments])  # noqa: S606 - the arguments are containerd's own


if __name__ == "__main__":
    main()
