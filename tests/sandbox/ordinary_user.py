"""Commands as a user without any privilege, who has nothing of this machine's but can read Python and this tree."""

import sys
from pathlib import Path

USER = 12345
TREE = Path(__file__).resolve().parents[2]
_SHOW = """
set -e
closed=$1 python=$2 tree=$3
shift 3
held=$(mktemp -d)
mkdir "$held/python" "$held/tree"
mount --bind "$python" "$held/python"
mount --bind "$tree" "$held/tree"
mount -t tmpfs -o mode=755 tmpfs "$closed"
mkdir -p "$python" "$tree"
mount --move "$held/python" "$python"
mount --move "$held/tree" "$tree"
rmdir "$held/python" "$held/tree" "$held"
exec "$@"
"""


def as_ordinary_user(command: list[str]) -> list[str]:
    """The command as USER; of a folder that is closed to others it sees only this Python and this tree."""
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all", *command]
    python = Path(sys.base_prefix).resolve()
    folders = (folder for place in (python, TREE) for folder in reversed(place.parents))
    closed = next((folder for folder in folders if not folder.stat().st_mode & 0o001), None)
    if closed is None:
        return as_user
    show = ["sh", "-c", _SHOW, "sh", str(closed), str(python), str(TREE)]
    return ["unshare", "--mount", "--propagation=private", *show, *as_user]
