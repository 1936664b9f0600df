"""Certificates for clients, from an authority whose key lies in a file: for trying mutual TLS out, and for those who run no other authority."""

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scheduler.identity.certificates import Material


def issue_client_certificate(*, ca_file: Path, ca_key_file: Path, spiffe_id: str, now: datetime, days: int) -> Material:
    """A new key and its certificate for one SPIFFE identity, followed by the authority's own where another has signed that.

    Raises OSError, and ValueError for files that do not parse.
    """
    anchors = ca_file.read_bytes()
    authority = x509.load_pem_x509_certificate(anchors)
    authority_key = serialization.load_pem_private_key(ca_key_file.read_bytes(), None)
    if not isinstance(
        authority_key,
        ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey,
    ):
        raise ValueError(f"{ca_key_file} holds a {type(authority_key).__name__}, which signs no certificates")  # noqa: TRY004 - the file's fault
    if authority_key.public_key() != authority.public_key():
        raise ValueError(f"{ca_key_file} is not the key of {ca_file}")
    key = ec.generate_private_key(ec.SECP256R1())
    digest = None if isinstance(authority_key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spiffe_id.rsplit("/", 1)[-1][:64])]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of other machines may be behind ours.
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority_key, digest)
    )
    chain = [certificate] if authority.issuer == authority.subject else [certificate, authority]
    return Material(
        certificate=b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        anchors=anchors,
    )
