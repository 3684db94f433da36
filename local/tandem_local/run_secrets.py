"""What the parts of a run show each other: the job's token and, with TLS, its certificate."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tandem_core.job import RLJob
from tandem_core.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from tandem_operator.certificate import make_certificate

from tandem_local.run_directory import RunDirectory

_TOKEN_BYTES = 32


@dataclass(frozen=True)
class RunSecrets:
    """Made once for a run, and kept in its directory."""

    token: str
    certificate: Mapping[str, str] = field(default_factory=dict)
    """By file name; empty: the job has no TLS."""

    @classmethod
    def make(cls, job: RLJob) -> Self:
        """New ones."""
        return cls(secrets.token_urlsafe(_TOKEN_BYTES), make_certificate(job) if job.spec.security.tls else {})

    @classmethod
    def load(cls, directory: RunDirectory, job: RLJob) -> Self:
        """Those of a run; a certificate that is missing is made."""
        files = {name: directory.certificate / name for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)}
        certificate: dict[str, str] = {}
        if job.spec.security.tls:
            known = all(file.exists() for file in files.values())
            certificate = {name: file.read_text() for name, file in files.items()} if known else make_certificate(job)
        return cls(directory.token_file.read_text(), certificate)

    def write(self, directory: RunDirectory) -> None:
        """Keep them, readable by the user alone."""
        _write(directory.token_file, self.token)
        if self.certificate:
            directory.certificate.mkdir(exist_ok=True)
        for name, text in self.certificate.items():
            _write(directory.certificate / name, text)


def _write(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)
