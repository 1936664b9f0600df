"""What certificates say (reliability.md 5.2): the one SPIFFE identity of a peer, how long it holds, and whether it still leads to a trust anchor.

TLS has verified the chain at the handshake; what is checked here is what TLS does not look at, and what may change afterwards.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_URI_MAX_BYTES = 2_048
_CHAIN_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What one side of TLS needs, in PEM: our certificate chain and key, and the trust anchors for the other side."""

    certificate: bytes = b""
    key: bytes = b""
    anchors: bytes = b""

    def expires(self) -> datetime | None:
        """When our own certificate ends; None without one. Raises ValueError for one that does not parse."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc if self.certificate else None


class Identity(NamedTuple):
    """A peer as its certificate names it."""

    trust_domain: str
    namespace: str
    app_id: str
    not_after: datetime

    @property
    def uri(self) -> str:
        """As it stands in certificates, without what may follow the app id."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/{self.app_id}"


def spiffe_uri(leaf: x509.Certificate) -> str | None:
    """The only URI among the subject's alternative names; None where there is none, or more than one."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 else None


def server_problem(certificate: bytes, wanted: str) -> str | None:
    """What is wrong with a server's leaf (DER) that TLS has verified, where it must be exactly this SPIFFE identity; host names mean nothing there."""
    try:
        found = spiffe_uri(x509.load_der_x509_certificate(certificate))
    except ValueError as error:
        return f"the server's certificate does not parse: {error}"
    return None if found == wanted else f"the server is {found}, not {wanted}"


def identity_of(certificate: bytes, trust_domains: frozenset[str]) -> Identity | None:
    """The SPIFFE identity of a leaf (DER) that TLS has verified; None where it is not exactly one, of the right form, in one of these domains."""
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        uri = spiffe_uri(leaf)
        if uri is None or len(uri) > _URI_MAX_BYTES or not uri.startswith("spiffe://") or not _is_client(leaf):
            return None
    except ValueError:
        return None
    trust_domain, *segments = uri.removeprefix("spiffe://").split("/")
    fit = all(_SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in (trust_domain, *segments))
    if not fit or len(segments) < 3 or segments[0] != "ns" or trust_domain not in trust_domains:
        return None
    return Identity(trust_domain, segments[1], segments[2], leaf.not_valid_after_utc)


def _is_client(certificate: x509.Certificate) -> bool:
    """Not a CA, no certificate signing, and meant for clients."""
    extensions = certificate.extensions
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        pass
    try:
        if extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            return False
    except x509.ExtensionNotFound:
        pass
    try:
        return ExtendedKeyUsageOID.CLIENT_AUTH in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False


def parse_anchors(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Raises ValueError where there is no certificate in it."""
    return tuple(x509.load_pem_x509_certificates(pem))


def leads_to(chain: Sequence[bytes], anchors: Sequence[x509.Certificate], now: datetime) -> bool:
    """Whether a chain (DER, the leaf first, intermediates in any order) still leads to one of these anchors."""
    try:
        leaf, *rest = (x509.load_der_x509_certificate(one) for one in chain)
    except ValueError:
        return False
    current = leaf
    for _ in range(_CHAIN_MAX):
        if not current.not_valid_before_utc <= now <= current.not_valid_after_utc:
            return False
        if any(_issued(current, anchor) and now <= anchor.not_valid_after_utc for anchor in anchors):
            return True
        issuer = next((one for one in rest if one is not current and _issued(current, one)), None)
        if issuer is None:
            return False
        rest.remove(issuer)
        current = issuer
    return False


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
