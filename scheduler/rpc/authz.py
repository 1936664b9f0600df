"""Who may act for which namespace and app (scheduler-service.md 1.5, 6; reliability.md 5.2).

Without TLS only presence is checked. With TLS the peer's certificate must carry exactly one SPIFFE identity, and each request
must be for that identity's namespace and app id. An identity holds until its certificate ends or the trust anchors change.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import NamedTuple, NoReturn

from cryptography import x509

from scheduler._pb.dapr.proto.scheduler.v1.scheduler_pb2 import JobMetadata
from scheduler.aio.clock import Clock
from scheduler.config import is_loopback
from scheduler.core.names import Target, actor_target, app_target
from scheduler.http2.call import Call, Peer
from scheduler.http2.grpc import RpcError, Status
from scheduler.identity.certificates import Identity, identity_of, leads_to, parse_anchors
from scheduler.logs import get_logger
from scheduler.metrics import RpcStatistics

_CACHE = "authz.identity"
# Denials that are logged each second: whoever is refused may ask as often as they like.
DENIALS_LOGGED_PER_S = 10

_log = get_logger("rpc")


class _Known(NamedTuple):
    """What a connection's certificate was found to say, under which anchors, and until when that holds."""

    identity: Identity | None
    anchors: int
    expires_ns: int


class Authorizer:
    """Checks each request's metadata against its caller."""

    def __init__(
        self,
        *,
        tls: bool,
        trust_domains: frozenset[str],
        clock: Clock,
        statistics: RpcStatistics,
        operators: Sequence[str] = (),
    ) -> None:
        """Peers of other trust domains are nobody, whatever signed their certificates. `operators`: see `matches`."""
        self.tls = tls
        self._operators = tuple(operators)
        self._denials = _Denials(clock)
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
        return not self.tls or self.identity(peer) is not None

    def check(self, call: Call, namespace: str, app_id: str) -> None:
        """Raises RpcError, in the reference's order of checks."""
        error = self._problem(call, namespace, app_id)
        if error is not None:
            self._deny(call, error, for_namespace=namespace, for_app_id=app_id)

    def check_operator(self, call: Call) -> None:
        """Whether the caller may see and steer the cluster: named by `operators`, or at this machine without TLS. Raises RpcError."""
        error = self._operator_problem(call)
        if error is not None:
            self._deny(call, error)

    def check_app_or_operator(self, call: Call, namespace: str, app_id: str) -> None:
        """What an app may do for itself, and an operator for any. Raises RpcError."""
        error = self._problem(call, namespace, app_id)
        if error is None or (error.status is Status.PERMISSION_DENIED and self._operator_problem(call) is None):
            return
        self._deny(call, error, for_namespace=namespace, for_app_id=app_id)

    def _deny(self, call: Call, error: RpcError, **wanted: str) -> NoReturn:
        self._statistics.sidecar_errors["auth_failed"] += 1
        self.log_denial(call, error, **wanted)
        raise error

    def log_denial(self, call: Call, error: RpcError, **wanted: str) -> None:
        """One line for whoever has to find out why; `wanted` is what was asked for."""
        self._denials.log(
            method=call.path,
            peer=call.peer.address,
            identity=self.name(call),
            **wanted,
            status=error.status.name,
            reason=error.message,
        )

    def _operator_problem(self, call: Call) -> RpcError | None:
        if self.tls:
            identity = self.identity(call.peer)
            if identity is None:
                return RpcError(Status.UNAUTHENTICATED, "failed to get identity from context")
            if any(matches(pattern, identity.uri) for pattern in self._operators):
                return None
            return RpcError(Status.PERMISSION_DENIED, f"{identity.uri} is not among this replica's --admin-identities")
        host = call.peer.address.rpartition(":")[0]
        if "*" in self._operators or is_loopback(host):
            return None
        return RpcError(
            Status.PERMISSION_DENIED,
            f"without TLS operators are let in from the replica's own machine alone, not from {call.peer.address}: "
            "call it there, or use mutual TLS and --admin-identities",
        )

    def _problem(self, call: Call, namespace: str, app_id: str) -> RpcError | None:
        if not namespace or not app_id:
            return RpcError(Status.INVALID_ARGUMENT, "missing namespace or appID in request")
        if not self.tls:
            return None
        identity = self.identity(call.peer)
        if identity is None:
            return RpcError(Status.UNAUTHENTICATED, "failed to get identity from context")
        if identity.namespace != namespace or identity.app_id != app_id:
            return RpcError(Status.PERMISSION_DENIED, "identity does not match request")
        return None

    def target(self, call: Call, metadata: JobMetadata, *, or_operator: bool = False) -> Target:
        """Whom a request's job is for, if the caller may speak for it (`or_operator`: or for any). Raises RpcError."""
        check = self.check_app_or_operator if or_operator else self.check
        check(call, metadata.namespace, metadata.app_id)
        match metadata.target.WhichOneof("type"):
            case "job":
                return app_target(metadata.namespace, metadata.app_id)
            case "actor":
                actor = metadata.target.actor
                return actor_target(metadata.namespace, actor.type, actor.id)
            case _:
                shown = "" if metadata.HasField("target") else "<nil>"
                raise RpcError(Status.UNKNOWN, f"unknown job type: {shown}")

    def name(self, call: Call) -> str:
        """Who calls, for the log."""
        identity = self.identity(call.peer) if self.tls else None
        return identity.uri if identity else "none"


def matches(pattern: str, uri: str) -> bool:
    """Whether a pattern of --admin-identities names a SPIFFE identity: part by part with `*` in it, or "*" alone, which names all."""
    parts, found = pattern.split("/"), uri.split("/")
    return pattern == "*" or (len(parts) == len(found) and all(map(fnmatchcase, found, parts)))


class _Denials:
    """Log lines of denials, so many a second; the next line says how many there was none for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = 0
        self._logged = 0
        self._unlogged = 0

    def log(self, **fields: str) -> None:
        """One denial."""
        second = int(self._clock.boottime_s())
        if second != self._second:
            self._second, self._logged = second, 0
        if self._logged >= DENIALS_LOGGED_PER_S:
            self._unlogged += 1
            return
        self._logged += 1
        more = {"unlogged": self._unlogged} if self._unlogged else {}
        self._unlogged = 0
        _log.warning("denied", **fields, **more)
