"""The certificate of a job with spec.security.tls: made once, kept in a Secret of the job."""

from datetime import UTC, datetime, timedelta

from tandem_core.job import RLJob
from tandem_core.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE

from tandem_operator.build.names import certificate_host

LIFETIME = timedelta(days=3650)
"""Longer than any job: it goes with the job, as its token does."""
_CLOCK_DIFFERENCE = timedelta(hours=1)


def make_certificate(job: RLJob) -> dict[str, str]:
    """PEM files by name: a certificate for all parts of the job, its key, and the authority that signed it.

    The authority's key is forgotten: it signs nothing else (see `tandem_core.tls`).
    """
    # Jobs without TLS do without the package.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    now, host = datetime.now(UTC), certificate_host(job)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority of {job.metadata.name}")])

    def sign(subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, authority: bool) -> str:
        names = [x509.DNSName(host), x509.DNSName(f"*.{host}")]
        builder = (
            x509.CertificateBuilder(authority_name, subject, public_key, x509.random_serial_number())
            .not_valid_before(now - _CLOCK_DIFFERENCE)
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        )
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    own_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, job.metadata.name)])
    return {
        CA_FILE: sign(authority_name, authority_key.public_key(), authority=True),
        CERTIFICATE_FILE: sign(own_name, key.public_key(), authority=False),
        KEY_FILE: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    }
