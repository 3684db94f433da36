"""`python tools/cluster/runc_with_order.py PROGRAM ...`: runc, with mounts in an order in which none covers another.

containerd mounts what every container has, this tree among it, before what the pod asks for: a pod's own /tmp would
cover a tree that lies below /tmp.
"""

import json
import os
import sys
from pathlib import Path


def sort_mounts(config: Path) -> None:
    """Put mounts below others after them, in the bundle's config.json."""
    spec = json.loads(config.read_text())
    spec["mounts"].sort(key=lambda mount: len(Path(mount["destination"]).parts))
    config.write_text(json.dumps(spec))


def main() -> None:
    """Become runc."""
    program, *arguments = sys.argv[1:]
    if "create" in arguments:
        sort_mounts(Path(arguments[arguments.index("--bundle") + 1]) / "config.json")
    os.execv(program, [program, *arguments])  # noqa: S606 - the arguments are containerd's own


if __name__ == "__main__":
    main()
