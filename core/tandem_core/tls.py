"""TLS between the parts of a job.

All parts of a job show one certificate. Its authority has signed no other, and nobody has the authority's key any more:
so who shows it is a part of the job, at whatever address. Who may ask for what is the token's business.
"""

import ssl
from pathlib import Path

from tandem_core.errors import TandemError

CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.crt", "tls.crt", "tls.key"
"""In PEM format."""


def build_client_context(directory: Path) -> ssl.SSLContext:
    """For connections to parts of the job, and to nobody else; raises TandemError that names the directory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    try:
        context.load_verify_locations(directory / CA_FILE)
    except OSError as error:
        raise _unusable(directory, error) from error
    return context


def build_server_context(directory: Path) -> ssl.SSLContext:
    """For a server of the job; raises TandemError that names the directory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE)
    except OSError as error:
        raise _unusable(directory, error) from error
    return context


def _unusable(directory: Path, error: OSError) -> TandemError:
    files = f"{CA_FILE}, {CERTIFICATE_FILE} and {KEY_FILE}"
    return TandemError(
        f"{directory} holds no certificate that can be used ({error}): {files} of the job's Secret are expected there"
    )
