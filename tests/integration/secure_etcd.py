"""An etcd with TLS, client certificates and passwords, as on a cluster."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from tandem_core.coordination.access import EtcdAccess
from tandem_core.coordination.store import Store

from .conftest import EtcdServer

ROOT_PASSWORD = "of-the-operator"


class Certificates:
    """A certificate authority of the test's own, and what it has signed, as files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.ca = self._write("ca.crt", self._sign("test authority", self._key, authority=True))
        self.server = self._issue("server")
        self.client = self._issue("pods-of-jobs")

    def _issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._write(f"{name}.crt", self._sign(name, key))
        return certificate, write_key(self.directory / f"{name}.key", key)

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool = False) -> x509.Certificate:
        hosts = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.directory / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


class SecureEtcd(EtcdServer):
    """One etcd that asks for a certificate and a password; `open` is for the operator."""

    def __init__(self, directory: Path, *, token_seconds: int | None = None) -> None:
        """`token_seconds`: how long a token is good, however much it is used; None: as etcd does."""
        directory.mkdir()
        self.certificates = Certificates(directory / "certificates")
        super().__init__(directory / "data")
        certificate, key = self.certificates.server
        self._command = [part.replace(f"http://{self.endpoint}", f"https://{self.endpoint}") for part in self._command]
        self._command += [
            *(f"--cert-file={certificate}", f"--key-file={key}"),
            *(f"--trusted-ca-file={self.certificates.ca}", "--client-cert-auth"),
        ]
        if token_seconds is not None:
            signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            private, public = write_key(directory / "token.key", signing), directory / "token.pub"
            public.write_bytes(
                signing.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
            options = f"pub-key={public},priv-key={private},sign-method=RS256,ttl={token_seconds}s"
            self._command += ["--auth-token", f"jwt,{options}"]

    def access(self, username: str = "root", password: str = ROOT_PASSWORD) -> EtcdAccess:
        certificate, key = self.certificates.client
        return EtcdAccess(
            endpoints=self.endpoint,
            username=username,
            password=password,
            ca_certificate=self.certificates.ca.read_text(),
            certificate=certificate.read_text(),
            key=key.read_text(),
        )

    def open(self) -> None:
        """Start it with the user root, and authentication on."""
        self.start()
        asyncio.run(self._turn_authentication_on())

    async def _turn_authentication_on(self) -> None:
        async with Store(self.access(username="", password="")) as store:
            await store.wait_until_reachable(30)
            auth = store.client.auth
            assert auth is not None
            await auth.user_add("root", ROOT_PASSWORD)
            with contextlib.suppress(Exception):  # newer versions have the role from the start
                await auth.role_add("root")
            await auth.user_grant_role("root", "root")
            await auth.auth_enable()


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Path:
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path
