"""How a container learns who and where it is: the environment that the operator's builders write."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tandem_core.coordination.access import EtcdAccess
from tandem_core.errors import TandemError
from tandem_core.tls import CERTIFICATE_FILE, KEY_FILE, build_client_context

MASTER_PORT = 8000
CHECKPOINT_ENGINE_PORT = 8001
TRAINER_METRICS_PORT = 8002
ENGINE_PORT = 8100

EXIT_FOR_GOOD = 3
"""Exit code of a container that a restart would not mend: unusable input, or a failed job."""

PREFIX = "TANDEM_"


class PodEnvironment(BaseModel):
    """Field `pod_name` is read from TANDEM_POD_NAME, and so on.

    The builders set those that have no default in every container.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_file: Path
    """The resolved RLJob (YAML)."""
    job_uid: str
    """The RLJob's uid: names its prefix in etcd."""
    pod_name: str
    """This pod's name."""
    pod_ip: str
    """This pod's address; servers listen on it."""
    etcd_endpoints: str
    """host:port, several separated by commas."""
    etcd_dir: Path | None = None
    """Holds what etcd asks for (see coordination.access); not set: it asks for nothing."""
    token_file: Path
    """Holds the bearer token of the job's HTTP APIs."""
    tls_dir: Path | None = None
    """Holds the job's certificate (see tls); not set: its HTTP is not encrypted."""
    shm_dir: Path
    """Memory-backed directory shared by the containers of the pod (/dev/shm/tandem on a cluster)."""
    model_dir: Path
    """Where a model that is downloaded or made from scratch is put; writable, private to the pod."""
    checkpoint_dir: Path
    """Checkpoints and the trained model; shared by all trainer ranks."""
    data_dir: Path
    """The rollout master's replay buffer."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read TANDEM_* variables; raises TandemError that names the missing ones."""
        values = {
            name: environment[PREFIX + name.upper()]
            for name in cls.model_fields
            if PREFIX + name.upper() in environment
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            missing = ", ".join(PREFIX + str(detail["loc"][0]).upper() for detail in error.errors())
            raise TandemError(
                f"environment variables missing or wrong: {missing}. The operator and `tandem run` set them; "
                "this program is not started by hand"
            ) from error

    def etcd_access(self) -> EtcdAccess:
        """How etcd may be reached; raises TandemError if the files are of no use."""
        return EtcdAccess.load(self.etcd_endpoints, self.etcd_dir)

    def url(self, port: int) -> str:
        """Address of a server of this pod."""
        return f"{'https' if self.tls_dir is not None else 'http'}://{self.pod_ip}:{port}"

    def client_context(self) -> ssl.SSLContext | None:
        """For requests to other parts of the job, None: not encrypted; raises TandemError."""
        return build_client_context(self.tls_dir) if self.tls_dir is not None else None

    @property
    def certificate_file(self) -> Path | None:
        """For this pod's servers; None: not encrypted."""
        return self.tls_dir / CERTIFICATE_FILE if self.tls_dir is not None else None

    @property
    def key_file(self) -> Path | None:
        """The certificate's key."""
        return self.tls_dir / KEY_FILE if self.tls_dir is not None else None

    def token(self) -> str:
        """The job's bearer token; raises TandemError if the file cannot be read."""
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise TandemError(f"cannot read the job's token from {self.token_file}: {error.strerror}") from error
