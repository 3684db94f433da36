"""The certificate of a job: its parts believe who shows it, and nobody else."""

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, RLJobStatus, load_job
from tandem_core.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE, build_client_context, build_server_context
from tandem_operator.certificate import make_certificate
from tandem_operator.memory import JobMemory, keep_certificate
from tandem_operator.observe.children import Child
from tandem_operator.observe.observed import Observed
from tandem_operator.resources import SECRET, JobKey, ObjectKey

JOB = load_job(Path(__file__).parent / "goldens" / "jobs" / "tls.yaml")


def write_certificate(directory: Path, job: RLJob) -> Path:
    directory.mkdir()
    for name, text in make_certificate(job).items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_certificate(tmp_path / "own", JOB)


@pytest.fixture
def port(own: Path) -> Iterator[int]:
    """Of a server that shows the job's certificate and says hello to each connection."""
    listener = build_server_context(own).wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            with connection:
                connection.sendall(b"hello")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(context: ssl.SSLContext, port: int, name: str | None = None) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        context.wrap_socket(connection, server_hostname=name) as encrypted,
    ):
        return encrypted.recv(5)


def test_a_part_believes_another_at_whatever_address(own: Path, port: int) -> None:
    assert connect(build_client_context(own), port) == b"hello"


def test_another_job_of_the_same_name_is_not_believed(tmp_path: Path, port: int) -> None:
    stranger = write_certificate(tmp_path / "stranger", JOB)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(build_client_context(stranger), port)


def test_who_checks_names_finds_that_of_the_job(own: Path, port: int) -> None:
    checking = ssl.create_default_context(cafile=own / CA_FILE)
    assert connect(checking, port, "addition.research.svc") == b"hello"
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(checking, port, "other.research.svc")


def test_the_certificate_can_sign_no_other(own: Path) -> None:
    certificate = x509.load_pem_x509_certificate((own / CERTIFICATE_FILE).read_bytes())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_missing_files_are_named(tmp_path: Path, own: Path) -> None:
    with pytest.raises(TandemError, match=r"ca\.crt"):
        build_client_context(tmp_path)
    (own / KEY_FILE).write_text("")
    with pytest.raises(TandemError, match=r"tls\.key"):
        build_server_context(own)


def test_another_operator_takes_up_the_certificate_that_the_job_has() -> None:
    observed = Observed(
        key=JobKey("research", "addition"),
        uid="u",
        generation=1,
        created_at=datetime.now(UTC),
        deleted_at=None,
        finalizers=(),
        annotations={},
        job=JOB,
        problem="",
        status=RLJobStatus(),
    )
    made = keep_certificate(JobMemory("u"), observed, JOB)
    data = {name: base64.b64encode(text.encode()).decode() for name, text in made.items()}
    secret = Child(ObjectKey(SECRET, "addition-tls"), "s", 1, "u", "f", data=data)
    found = replace(observed, children={secret.key: secret})
    assert keep_certificate(JobMemory("u"), found, JOB) == made
    assert keep_certificate(JobMemory("u"), observed, JOB) != made
