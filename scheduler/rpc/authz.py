"""Who may act for which namespace and app (scheduler-service.md 1.5, 6; reliability.md 5.2).

Without TLS only presence is checked. With TLS the peer's certificate must carry exactly one SPIFFE identity, and each request
must be for that identity's namespace and app id.
"""

import re
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from scheduler._pb.dapr.proto.scheduler.v1.scheduler_pb2 import JobMetadata
from scheduler.core.names import Target, actor_target, app_target
from scheduler.http2.grpc import RpcError, Status
from scheduler.http2.server import Call
from scheduler.metrics import RpcStatistics

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_URI_MAX_BYTES = 2_048
_CACHE = "authz.identity"


class Identity(NamedTuple):
    """A peer as its certificate names it."""

    trust_domain: str
    namespace: str
    app_id: str


def identity_of(certificate: bytes, trust_domains: frozenset[str]) -> Identity | None:
    """The SPIFFE identity of a leaf that TLS has verified; None where it is not exactly one of an allowed form and domain."""
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        uris = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    if len(uris) != 1 or len(uris[0]) > _URI_MAX_BYTES or not uris[0].startswith("spiffe://") or not _is_leaf(leaf):
        return None
    trust_domain, *segments = uris[0].removeprefix("spiffe://").split("/")
    fit = all(_SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in (trust_domain, *segments))
    if not fit or len(segments) < 3 or segments[0] != "ns":
        return None
    if trust_domains and trust_domain not in trust_domains:
        return None
    return Identity(trust_domain, segments[1], segments[2])


def _is_leaf(certificate: x509.Certificate) -> bool:
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


class Authorizer:
    """Checks each request's metadata against its caller."""

    def __init__(self, *, tls: bool, trust_domains: frozenset[str], statistics: RpcStatistics) -> None:
        """`trust_domains` empty: any domain under the trust anchors."""
        self._tls = tls
        self._trust_domains = trust_domains
        self._statistics = statistics

    def check(self, call: Call, namespace: str, app_id: str) -> None:
        """Raises RpcError, in the reference's order of checks."""
        error = self._problem(call, namespace, app_id)
        if error is not None:
            self._statistics.sidecar_errors["auth_failed"] += 1
            raise error

    def _problem(self, call: Call, namespace: str, app_id: str) -> RpcError | None:
        if not namespace or not app_id:
            return RpcError(Status.INVALID_ARGUMENT, "missing namespace or appID in request")
        if not self._tls:
            return None
        cache = call.peer.attributes
        if _CACHE not in cache:
            certificate = call.peer.certificate
            cache[_CACHE] = identity_of(certificate, self._trust_domains) if certificate else None
        identity: Identity | None = cache[_CACHE]
        if identity is None:
            return RpcError(Status.UNAUTHENTICATED, "failed to get identity from context")
        if identity.namespace != namespace or identity.app_id != app_id:
            return RpcError(Status.PERMISSION_DENIED, "identity does not match request")
        return None

    def target(self, call: Call, metadata: JobMetadata) -> Target:
        """The checked target of a request's metadata. Raises RpcError."""
        namespace, app_id = metadata.namespace, metadata.app_id
        self.check(call, namespace, app_id)
        match metadata.target.WhichOneof("type"):
            case "job":
                return app_target(namespace, app_id)
            case "actor":
                actor = metadata.target.actor
                return actor_target(namespace, actor.type, actor.id)
            case _:
                shown = "" if metadata.HasField("target") else "<nil>"
                raise RpcError(Status.UNKNOWN, f"unknown job type: {shown}")
