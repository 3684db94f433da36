"""How a program may reach etcd: where it is, and what it asks for."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tandem_core.errors import TandemError

ENDPOINTS_VARIABLE = "TANDEM_ETCD_ENDPOINTS"
DIRECTORY_VARIABLE = "TANDEM_ETCD_DIR"
"""Directory with any of FILES: a mounted Secret. Not set: etcd asks for nothing."""
FILES = {
    "ca.crt": "ca_certificate",
    "tls.crt": "certificate",
    "tls.key": "key",
    "username": "username",
    "password": "password",
}
"""Field of EtcdAccess by the name of its file."""


class EtcdAccess(BaseModel):
    """Endpoints, and what is shown to them. Certificates and keys are in PEM format; empty: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: str
    """host:port, several separated by commas; several are IP addresses."""
    username: str = ""
    password: str = Field(default="", repr=False)
    ca_certificate: str = ""
    """Who signs etcd's certificate; with it, connections are encrypted."""
    certificate: str = ""
    """The program's own, for an etcd that asks for one. It must not name an etcd user: without a token, etcd takes the
    common name for the user."""
    key: str = Field(default="", repr=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.username) != bool(self.password):
            raise ValueError("username and password go together: give both, or neither")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("tls.crt and tls.key go together: give both, or neither")
        if self.certificate and not self.ca_certificate:
            raise ValueError("tls.crt needs ca.crt: without it, connections are not encrypted")
        if len(self.hosts) > 1 and not all(map(_is_address, self.hosts)):
            raise ValueError(
                f"several endpoints must be IP addresses, found {self.endpoints}: name one Service that stands for all "
                "of them instead"
            )
        return self

    @classmethod
    def load(cls, endpoints: str, directory: Path | None) -> Self:
        """With what stands in `directory`; None: nothing. Raises TandemError that names the directory."""
        fields = {}
        try:
            for name, field in FILES.items():
                if directory is not None and (directory / name).exists():
                    fields[field] = (directory / name).read_text().strip()
            return cls(endpoints=endpoints, **fields)
        except (OSError, ValueError) as error:
            where = f" and the files in {directory} ({', '.join(FILES)})" if directory is not None else ""
            raise TandemError(f"etcd cannot be reached with the endpoints {endpoints}{where}: {error}") from error

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, endpoints: str = "") -> Self:
        """By TANDEM_ETCD_ENDPOINTS, else `endpoints`, and TANDEM_ETCD_DIR. Raises TandemError."""
        directory = environment.get(DIRECTORY_VARIABLE)
        found = environment.get(ENDPOINTS_VARIABLE, endpoints)
        return cls.load(found, Path(directory) if directory else None)

    @property
    def hosts(self) -> list[str]:
        """The endpoints' names or addresses."""
        return [endpoint.rpartition(":")[0].strip("[]") for endpoint in self.endpoints.split(",")]

    @property
    def target(self) -> str:
        """The endpoints as gRPC wants them; a name is looked up anew with each connection."""
        first = self.hosts[0]
        if not _is_address(first):
            return f"dns:///{self.endpoints}"
        return f"{'ipv6' if ':' in first else 'ipv4'}:{self.endpoints.replace('localhost', '127.0.0.1')}"

    def files(self) -> dict[str, str]:
        """Content by file name of the directory that `load` would read."""
        return {name: getattr(self, field) for name, field in FILES.items() if getattr(self, field)}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"  # 127.0.0.1, whatever the machine thinks of IPv6
    return True
