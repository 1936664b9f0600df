"""The etcd client: several endpoints, TLS, authentication, reads that are retried and writes that are sent once.

It stands on our own HTTP/2 (a watch event costs a tenth of what it costs through grpcio). One channel per endpoint; requests
stick to one endpoint until it fails or stalls, then move to the next.
"""

import asyncio
import random
import ssl
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from scheduler._pb.etcd_api.v1 import etcd_pb2 as pb
from scheduler.etcd.api import (
    DEFAULT_TIMEOUT_S,
    Compare,
    EventsCallback,
    LostCallback,
    Operation,
    Outcome,
    Range,
    RangeResult,
    TxnResult,
    WatchHandle,
)
from scheduler.etcd.errors import (
    EtcdAuthError,
    EtcdCompacted,
    EtcdError,
    EtcdNoSpace,
    EtcdRequestError,
    EtcdUnavailable,
    LeaseNotFound,
)
from scheduler.etcd.watch import WatchStream
from scheduler.etcd.wire import range_request, range_result, txn_request, txn_result
from scheduler.exposition import Histogram
from scheduler.http2.client import Channel, ConnectError
from scheduler.http2.grpc import RpcError, Status
from scheduler.http2.limits import Limits
from scheduler.metrics import DURATION_BOUNDS_S

# A read that hangs on a stalled member goes to the next one after this.
_ATTEMPT_S = 1.5
_RETRY_PAUSE_S = 0.05
_KEEPALIVE_S = 2.0
# Pages of records are large, and there is one such connection.
_LIMITS = Limits(message_max_bytes=(1 << 31) - 1, keepalive_timeout_s=2.0, read_bytes=16 << 10)

# etcd's error texts, most specific first; (text, our error, whether a write with this answer surely did nothing).
_ERRORS: tuple[tuple[str, type[EtcdError], bool], ...] = (
    ("database space exceeded", EtcdNoSpace, True),
    ("request is too large", EtcdRequestError, True),
    ("too many operations", EtcdRequestError, True),
    ("duplicate key", EtcdRequestError, True),
    ("lease not found", LeaseNotFound, True),
    ("revision has been compacted", EtcdCompacted, True),
    ("future revision", EtcdUnavailable, True),
    ("too many requests", EtcdUnavailable, True),
    ("permission denied", EtcdAuthError, True),
    ("user name is empty", EtcdAuthError, True),
    ("authentication failed", EtcdAuthError, True),
    ("authentication is not enabled", EtcdAuthError, True),
    ("invalid auth token", EtcdAuthError, True),
    ("corrupt", EtcdUnavailable, True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """etcd user and password."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """One endpoint, as it tells of itself; `problem` says why it does not. `quota_bytes` 0: this etcd does not tell (before 3.6)."""

    endpoint: str
    problem: str = ""
    version: str = ""
    revision: int = 0
    db_bytes: int = 0
    db_used_bytes: int = 0
    quota_bytes: int = 0
    leader: bool = False
    errors: tuple[str, ...] = ()
    answer_s: float = 0.0


def translate(error: RpcError, *, write: bool) -> EtcdError | None:
    """Our error for etcd's; None: a write whose fate is unknown."""
    for text, kind, harmless in _ERRORS:
        if text in error.message and (harmless or not write):
            return kind(error.message)
    if isinstance(error, ConnectError):
        return EtcdUnavailable(error.message)
    if error.status in {Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED, Status.OUT_OF_RANGE, Status.FAILED_PRECONDITION}:
        return EtcdRequestError(error.message)
    if error.status is Status.RESOURCE_EXHAUSTED:
        return EtcdRequestError(error.message)
    return None if write else EtcdUnavailable(f"{error.status.name}: {error.message}")


def parse_endpoint(endpoint: str) -> tuple[str, bool]:
    """("host:port", whether by TLS) of an endpoint such as "http://host:2379", "https://..." or plain "host:2379"."""
    scheme, separator, rest = endpoint.partition("://")
    if not separator:
        return endpoint, False
    if scheme not in {"http", "https"}:
        raise ValueError(f"etcd endpoint {endpoint!r}: the scheme is {scheme!r}, allowed are http and https")
    return rest.rstrip("/"), scheme == "https"


def _system_tls() -> ssl.SSLContext:
    """Verifies against the system's anchors."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    return context


class Client:
    """See `scheduler.etcd.api.Etcd` for the contract. Belongs to one event loop; `close` ends it."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        rng: random.Random,
        tls: Callable[[], ssl.SSLContext] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Connects with the first request; `tls` is asked at each connection. Raises ValueError for an endpoint that is none."""
        if not endpoints:
            raise ValueError("etcd endpoints: none given")
        self._channels: list[Channel] = []
        for endpoint in endpoints:
            target, secure = parse_endpoint(endpoint)
            context = (tls or _system_tls) if secure else None
            self._channels.append(Channel(target, tls=context, limits=_LIMITS, keepalive_s=_KEEPALIVE_S, rng=rng))
        self._rng = rng
        self._current = rng.randrange(len(self._channels))
        self._next_keep_alive = self._current
        self._credentials = credentials
        self._token: str | None = None
        self._authenticating: asyncio.Lock = asyncio.Lock()
        self._watches = WatchStream(channel=self._watch_channel, metadata=self._metadata, rng=rng)
        # Requests by (operation, result), for metrics.
        self.requests: Counter[tuple[str, str]] = Counter()
        # Transactions whose conditions did not hold; nested ones are their owners' to count.
        self.conflicts = 0
        # How long etcd took, by operation; retries included.
        self.seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(DURATION_BOUNDS_S))

    @property
    def watch_reconnects(self) -> Counter[str]:
        """Watch streams lost, by reason, for metrics."""
        return self._watches.reconnects

    @property
    def watch_lag_s(self) -> float:
        """For how long etcd has said nothing on the watch stream, where it is asked often; 0 while nothing is watched."""
        return self._watches.lag_s

    async def close(self) -> None:
        """End watches and connections."""
        self._watches.close()
        for channel in self._channels:
            await channel.close()

    # Requests

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        if self._credentials is None:
            return ()
        if self._token is None:
            async with self._authenticating:
                if self._token is None:
                    await self._authenticate(self._credentials)
        return (("token", self._token or ""),)

    async def _authenticate(self, credentials: Credentials) -> None:
        request = pb.AuthenticateRequest(name=credentials.user, password=credentials.password)
        try:
            answer = await self._channels[self._current].unary(
                "/etcdserverpb.Auth/Authenticate", request.SerializeToString(), timeout_s=_ATTEMPT_S
            )
        except RpcError as error:
            raise translate(error, write=False) or EtcdUnavailable(error.message) from error
        self._token = pb.AuthenticateResponse.FromString(answer).token

    def _advance(self, failed: int) -> None:
        """Leave an endpoint that failed, unless somebody has left it already."""
        if self._current == failed:
            self._current = (failed + 1) % len(self._channels)

    async def _read(self, operation: str, path: str, data: bytes, timeout_s: float) -> bytes:
        """A request without effect: tried on other endpoints until it works or time is up."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = started + timeout_s
        while True:
            left = deadline - loop.time()
            at = self._current
            attempt_s = left if len(self._channels) == 1 else min(left, max(_ATTEMPT_S, timeout_s / 3))
            try:
                metadata = await self._metadata()
                answer = await self._channels[at].unary(path, data, timeout_s=max(0.001, attempt_s), metadata=metadata)
            except RpcError as error:
                known = translate(error, write=False)
                if isinstance(known, EtcdAuthError) and "token" in error.message:
                    self._token = None
                elif not isinstance(known, EtcdUnavailable):
                    self.requests[operation, "refused"] += 1
                    raise (EtcdUnavailable(error.message) if known is None else known) from error
                self._advance(at)
                if loop.time() + _RETRY_PAUSE_S >= deadline:
                    self.requests[operation, "unavailable"] += 1
                    raise (EtcdUnavailable(error.message) if known is None else known) from error
                await asyncio.sleep(_RETRY_PAUSE_S)
                continue
            self._answered(operation, started)
            return answer

    async def _write(self, operation: str, path: str, data: bytes, timeout_s: float) -> bytes | None:
        """A request with effect: sent once. None: its fate is unknown. Raises EtcdError where it surely did nothing."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        for attempt in range(len(self._channels) + 1):
            at = self._current
            try:
                metadata = await self._metadata()
                left_s = max(0.001, started + timeout_s - loop.time())
                answer = await self._channels[at].unary(path, data, timeout_s=left_s, metadata=metadata)
            except RpcError as error:
                known = translate(error, write=True)
                unsent = isinstance(error, ConnectError)
                if isinstance(known, EtcdAuthError) and "token" in error.message:
                    self._token, unsent = None, True
                if known is None or unsent or isinstance(known, EtcdUnavailable):
                    self._advance(at)
                if unsent and attempt < len(self._channels):
                    continue
                self.requests[operation, "unknown" if known is None else "refused"] += 1
                if known is None:
                    return None
                raise known from error
            self._answered(operation, started)
            return answer
        raise EtcdUnavailable("no endpoint")

    def _answered(self, operation: str, started: float) -> None:
        self.requests[operation, "ok"] += 1
        self.seconds[operation].observe(asyncio.get_running_loop().time() - started)

    async def range(self, request: Range, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> RangeResult:
        """One range read."""
        answer = await self._read("range", "/etcdserverpb.KV/Range", range_request(request), timeout_s)
        return range_result(pb.RangeResponse.FromString(answer))

    async def pages(
        self, key: bytes, range_end: bytes, *, page_size: int, revision: int = 0, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AsyncIterator[RangeResult]:
        """All keys of a range in pages at one revision."""
        while True:
            request = Range(key, range_end, limit=page_size, revision=revision)
            page = await self.range(request, timeout_s=timeout_s)
            revision = revision or page.revision
            yield page
            if not page.more:
                return
            key = page.kvs[-1].key + b"\0"

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> TxnResult:
        """One transaction; reads alone are retried like reads."""
        request = txn_request(compares, success, failure)
        path = "/etcdserverpb.KV/Txn"
        if all(isinstance(operation, Range) for operation in (*success, *failure)):
            answer: bytes | None = await self._read("txn", path, request, timeout_s)
        else:
            answer = await self._write("txn", path, request, timeout_s)
        if answer is None:
            return TxnResult(Outcome.UNKNOWN, 0, [])
        result = txn_result(pb.TxnResponse.FromString(answer))
        self.conflicts += result.outcome is Outcome.REJECTED
        return result

    async def status(self, *, timeout_s: float) -> list[EndpointStatus]:
        """What each endpoint says of itself, asked all at once; never raises EtcdError: one that does not answer says why."""
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(self._status(channel, timeout_s), name="etcd status") for channel in self._channels
            ]
        return [task.result() for task in asked]

    async def _status(self, channel: Channel, timeout_s: float) -> EndpointStatus:
        loop = asyncio.get_running_loop()
        started = loop.time()
        path, request = "/etcdserverpb.Maintenance/Status", pb.StatusRequest().SerializeToString()
        try:
            async with asyncio.timeout(timeout_s):
                metadata = await self._metadata()
                answer = await channel.unary(path, request, timeout_s=timeout_s, metadata=metadata)
        except (RpcError, EtcdError, TimeoutError) as error:
            self.requests["status", "unavailable"] += 1
            return EndpointStatus(channel.target, str(error) or f"no answer within {timeout_s:g} s")
        self._answered("status", started)
        found = pb.StatusResponse.FromString(answer)
        return EndpointStatus(
            channel.target,
            version=found.version,
            revision=found.header.revision,
            db_bytes=found.dbSize,
            db_used_bytes=found.dbSizeInUse,
            quota_bytes=found.dbSizeQuota,
            leader=found.leader == found.header.member_id,
            errors=tuple(found.errors),
            answer_s=loop.time() - started,
        )

    # Leases

    async def lease_grant(self, ttl_s: int, *, lease_id: int = 0, timeout_s: float = DEFAULT_TIMEOUT_S) -> int:
        """A new lease; one whose answer is lost expires by itself."""
        request = pb.LeaseGrantRequest(TTL=ttl_s, ID=lease_id)
        answer = await self._write(
            "lease_grant", "/etcdserverpb.Lease/LeaseGrant", request.SerializeToString(), timeout_s
        )
        if answer is None:
            raise EtcdUnavailable("the answer to a lease grant was lost")
        return pb.LeaseGrantResponse.FromString(answer).ID

    async def lease_keep_alive(self, lease_id: int, *, timeout_s: float) -> float:
        """One keepalive on a fresh stream to the next endpoint."""
        started = asyncio.get_running_loop().time()
        self._next_keep_alive = at = (self._next_keep_alive + 1) % len(self._channels)
        try:
            metadata = await self._metadata()
            answer = await self._channels[at].unary(
                "/etcdserverpb.Lease/LeaseKeepAlive",
                pb.LeaseKeepAliveRequest(ID=lease_id).SerializeToString(),
                timeout_s=timeout_s,
                metadata=metadata,
            )
        except RpcError as error:
            self.requests["lease_keep_alive", "failed"] += 1
            known = translate(error, write=False)
            if isinstance(known, EtcdAuthError):
                self._token = None
            raise known or EtcdUnavailable(error.message) from error
        self._answered("lease_keep_alive", started)
        return float(pb.LeaseKeepAliveResponse.FromString(answer).TTL)

    async def lease_revoke(self, lease_id: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """End a lease."""
        request = pb.LeaseRevokeRequest(ID=lease_id)
        try:
            answer = await self._write(
                "lease_revoke", "/etcdserverpb.Lease/LeaseRevoke", request.SerializeToString(), timeout_s
            )
        except LeaseNotFound:
            return
        if answer is None:
            raise EtcdUnavailable("the answer to a lease revocation was lost")

    async def lease_keys(self, lease_id: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[float, list[bytes]]:
        """Remaining TTL and attached keys."""
        request = pb.LeaseTimeToLiveRequest(ID=lease_id, keys=True)
        answer = await self._read(
            "lease_keys", "/etcdserverpb.Lease/LeaseTimeToLive", request.SerializeToString(), timeout_s
        )
        response = pb.LeaseTimeToLiveResponse.FromString(answer)
        return float(response.TTL), list(response.keys)

    # Watches

    def _watch_channel(self, *, failed: bool) -> Channel:
        if failed:
            self._advance(self._current)
        return self._channels[self._current]

    def watch(
        self,
        key: bytes,
        range_end: bytes,
        *,
        start_revision: int,
        on_events: EventsCallback,
        on_lost: LostCallback,
    ) -> WatchHandle:
        """Watch a range across reconnects."""
        return self._watches.add(key, range_end, start_revision, on_events, on_lost)
