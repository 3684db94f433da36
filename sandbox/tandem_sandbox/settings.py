"""How a sandbox service is set up."""

import hashlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from tandem_core.sandbox.deployment import SANDBOX_PORT

DEFAULT_HOME = Path("/var/lib/tandem-sandbox")
_RUN_FOLDER = Path("/run/tandem-sandbox")


def default_home() -> Path:
    """TANDEM_SANDBOX_HOME, or the usual place."""
    return Path(os.environ.get("TANDEM_SANDBOX_HOME", DEFAULT_HOME))


class Settings(BaseModel):
    """Options of the service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path
    """Holds images; one service at a time."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = SANDBOX_PORT
    """Port to listen on."""
    metrics_port: int = 0
    """Port where /metrics is read without the token; 0: none."""
    token: str
    """What requests must bring."""
    runtime: str = "crun"
    """Program that makes containers: crun, runc or runsc."""
    unprivileged: bool = False
    """Whether an ordinary user runs it: limits then are those of processes and not of control groups."""
    running: int = Field(ge=1, le=1024)
    """Containers that run at a time: as many as processors, or their programs disturb each other."""
    ahead: int = Field(ge=0, le=1024)
    """Containers more that wait ready."""
    sessions: int = Field(default=8, ge=0, le=1024)
    """Sessions at a time; one more is told to come again."""
    queued: int = Field(default=256, ge=1)
    """Requests at a time; one more is told to come again."""
    request_seconds: float = Field(default=600.0, gt=0)
    """Longest time for one request."""
    host_image: bool = True
    """Whether this machine's own programs (/usr, read-only) are an image, `host`."""

    @property
    def group_name(self) -> str:
        """Name of the service's control groups; the same for the same home."""
        return f"tandem-sandbox-{hashlib.sha256(bytes(self.home.absolute())).hexdigest()[:8]}"

    @property
    def runtime_group_name(self) -> str:
        """Name of the control group that holds what a program that makes containers makes by itself."""
        return f"{self.group_name}-runtime"

    @property
    def run_folder(self) -> Path:
        """Where the service mounts what it needs, in its own mount namespace.

        Its folders can be searched by everybody: so must be what leads to a container's root.
        """
        return self.home / "run" if self.unprivileged else _RUN_FOLDER / self.group_name
