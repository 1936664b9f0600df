"""Who may act for which namespace and app (scheduler-service.md 1.5, 6; reliability.md 5.2).

Without TLS only presence is checked. With TLS the peer's certificate must carry exactly one SPIFFE identity, and each request
must be for that identity's namespace and app id. An identity holds until its certificate ends or the trust anchors change.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from cryptography import x509

from scheduler._pb.dapr.proto.scheduler.v1.scheduler_pb2 import JobMetadata
from scheduler.aio.clock import Clock
from scheduler.core.names import Target, actor_target, app_target
from scheduler.http2.call import Call, Peer
from scheduler.http2.grpc import RpcError, Status
from scheduler.identity.certificates import Identity, identity_of, leads_to, parse_anchors
from scheduler.metrics import RpcStatistics

_CACHE = "authz.identity"


class _Known(NamedTuple):
    """What a connection's certificate was found to say, under which anchors, and until when that holds."""

    identity: Identity | None
    anchors: int
    expires_ns: int


class Authorizer:
    """Checks each request's metadata against its caller."""

    def __init__(self, *, tls: bool, trust_domains: frozenset[str], clock: Clock, statistics: RpcStatistics) -> None:
        """Peers of other trust domains are nobody, whatever signed their certificates."""
        self._tls = tls
        self._trust_domains = trust_domains
        self._clock = clock
        self._statistics = statistics
        self._anchors: tuple[x509.Certificate, ...] = ()
        self._anchors_number = 0

    def trust(self, anchors: bytes) -> None:
        """From now on these anchors count (PEM), for connections that stand already too. Raises ValueError."""
        self._anchors = parse_anchors(anchors)
        self._anchors_number += 1

    def identity(self, peer: Peer) -> Identity | None:
        """Who the peer is, now; None: nobody."""
        known: _Known | None = peer.attributes.get(_CACHE)
        now_ns = self._clock.wall_ns()
        if known is None or known.anchors != self._anchors_number or now_ns > known.expires_ns:
            now = datetime.fromtimestamp(now_ns / 1e9, UTC)
            identity = identity_of(peer.chain[0], self._trust_domains) if peer.chain else None
            if identity is not None and (now > identity.not_after or not leads_to(peer.chain, self._anchors, now)):
                identity = None
            expires_ns = int(identity.not_after.timestamp() * 1e9) if identity else 1 << 63
            known = peer.attributes[_CACHE] = _Known(identity, self._anchors_number, expires_ns)
        return known.identity

    def still_holds(self, peer: Peer) -> bool:
        """Whether a stream that was let in may stay."""
        return not self._tls or self.identity(peer) is not None

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
        identity = self.identity(call.peer)
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
