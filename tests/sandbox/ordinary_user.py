"""Commands as a user without any privilege, who has nothing of this machine's but can read Python and this tree."""

import sys
from pathlib import Path

USER = 12345
_SHOW_PYTHON = """
set -e
closed=$1 python=$2
shift 2
hold=$(mktemp -d)
mount --bind "$python" "$hold"
mount -t tmpfs -o mode=755 tmpfs "$closed"
mkdir -p "$python"
mount --move "$hold" "$python"
rmdir "$hold"
exec "$@"
"""


def as_ordinary_user(command: list[str]) -> list[str]:
    """The command as USER; where this Python lies in a folder that is closed to others, only they see it there."""
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all", *command]
    python = Path(sys.base_prefix).resolve()
    closed = next((folder for folder in reversed(python.parents) if not folder.stat().st_mode & 0o001), None)
    if closed is None:
        return as_user
    show = ["sh", "-c", _SHOW_PYTHON, "sh", str(closed), str(python)]
    return ["unshare", "--mount", "--propagation=private", *show, *as_user]
