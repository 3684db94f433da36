"""Where the parts of a run lie on this machine, and which addresses its pods have."""

import ipaddress
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tandem_core.errors import TandemError

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is what memory-backed volumes are made of
_PODS_PER_BLOCK = 250


class TooManyPods(TandemError):
    """More pods than one block of loopback addresses holds."""


@dataclass(frozen=True)
class Places:
    """The directories and the address block of one run."""

    run_id: str
    """8 hexadecimal digits, different for each run: makes names in shared places unique."""
    directory: Path
    """The run directory, which outlives the run."""
    address_block: ipaddress.IPv4Network
    """A /24 in 127.0.0.0/8."""
    working_directory: Path
    """Where processes start: relative paths in a job file are relative to where `tandem run` was typed."""

    @property
    def volumes(self) -> Path:
        """Volumes on disk."""
        return self.directory / "volumes"

    @property
    def memory(self) -> Path:
        """Memory-backed volumes; removed at the end."""
        return SHARED_MEMORY / f"tandem-{self.run_id}"

    @property
    def temporary(self) -> Path:
        """What processes put into TMPDIR; removed at the end. Short: Unix sockets lie there, whose paths are limited
        to 107 characters."""
        return Path(tempfile.gettempdir()) / f"tandem-{self.run_id}"

    def log_file(self, pod: str, container: str) -> Path:
        """The output of one container."""
        return self.directory / "logs" / pod / f"{container}.log"

    def address(self, number: int) -> str:
        """The address of the run's process group `number`: 0 is etcd, pods follow."""
        if number >= _PODS_PER_BLOCK:
            raise TooManyPods(
                f"the job has more than {_PODS_PER_BLOCK - 1} pods, which is more than one machine's run can have: "
                "lower spec.hybrid.replicas or spec.elastic.max, or run it on a cluster"
            )
        return str(self.address_block[number + 1])
