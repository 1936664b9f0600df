"""The ways to an app (sidecar-and-jobs-api.md 3.2 to 3.5): HTTP/1.1, HTTP/2 and gRPC, in plaintext or under TLS. What it answers is a verdict."""

import asyncio
import enum
import io
import ssl
from functools import lru_cache
from typing import Any, Protocol

import aiohttp
from google.protobuf.empty_pb2 import Empty
from yarl import URL

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.config import SidecarSettings
from scheduler.http2.client import Channel, ConnectError
from scheduler.http2.exchange import exchange
from scheduler.http2.grpc import Metadata, RpcError, Status
from scheduler.http2.limits import Limits
from scheduler.logs import get_logger
from scheduler.sidecar.payload import body_of, context_of, event_of, identity_of, path_of

_CALLBACK = "/dapr.proto.runtime.v1.AppCallback"
_STABLE, _ALPHA = f"{_CALLBACK}/OnJobEvent", f"{_CALLBACK}Alpha/OnJobEventAlpha1"
_HEALTH = f"{_CALLBACK}HealthCheck/HealthCheck"
_CONNECT_TIMEOUT_S = 10.0
_OPENINGS_MAX = 64
_URLS_REMEMBERED = 4_096
_LARGE_BODY_BYTES = 256 << 10

_log = get_logger("sidecar.app")


class Verdict(enum.Enum):
    """What came of a delivery."""

    TAKEN = "taken"  # 2xx, OK
    UNKNOWN_JOB = (
        "unknown job"  # 404, NOT_FOUND: acknowledged, since trying again would change nothing, and counted as a failure
    )
    FAILED = "failed"
    UNREACHED = "unreached"  # no answer at all: tried again, but not the app's failure

    @property
    def acknowledged(self) -> bool:
        """Whether the scheduler is told that the trigger succeeded."""
        return self in {Verdict.TAKEN, Verdict.UNKNOWN_JOB}


def verdict_of_http(status: int) -> Verdict:
    """The table of 3.2."""
    if 200 <= status < 300:
        return Verdict.TAKEN
    return Verdict.UNKNOWN_JOB if status == 404 else Verdict.FAILED


def verdict_of_grpc(error: RpcError) -> Verdict:
    """The table of 3.3, for what is not OK."""
    if isinstance(error, ConnectError):
        return Verdict.UNREACHED
    return Verdict.UNKNOWN_JOB if error.status is Status.NOT_FOUND else Verdict.FAILED


class AppChannel(Protocol):
    """A way to the app."""

    async def deliver(self, trigger: pb.WatchJobsResponse) -> Verdict:
        """Tell it, and wait for the answer as long as it takes. Never raises but for cancellation."""

    async def probe(self, path: str) -> bool:
        """Whether it says that it is healthy. Never raises but for cancellation."""

    async def close(self) -> None:
        """Drop connections."""


def app_channel(settings: SidecarSettings) -> AppChannel | None:
    """The way that the settings name; None without an app port."""
    if settings.app_port is None:
        return None
    address, token = f"{settings.authority}:{settings.app_port}", settings.app_api_token
    match settings.app_protocol:
        case "grpc" | "grpcs":
            tls = settings.app_protocol == "grpcs"
            return GrpcApp(address, token=token, tls=tls, max_bytes=settings.max_body_size_bytes)
        case "h2c":
            return Http2App(address, token=token)
        case scheme:
            return HttpApp(f"{scheme}://{address}", token=token)


def _unverified() -> ssl.SSLContext:
    """TLS that does not look at who the app is, as in the reference: it is our neighbour, with a certificate of its own making."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _headers(trigger: pb.WatchJobsResponse, token: str) -> dict[str, str]:
    headers = {"content-type": "application/json", **identity_of(trigger), **context_of(trigger)}
    if token:
        headers["dapr-api-token"] = token
    return headers


class _Connector(aiohttp.TCPConnector):
    """Opens a bounded number of connections at a time: a thousand triggers at once must not overrun the app's listen queue."""

    def __init__(self) -> None:
        # An idle connection is dropped before most servers would: a trigger should not meet one that is closing.
        super().__init__(limit=0, keepalive_timeout=4.0, ssl=False)
        self._openings = asyncio.Semaphore(_OPENINGS_MAX)

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Any:
        """Where aiohttp opens a connection; the time limit for connecting begins inside."""
        async with self._openings:
            return await super()._create_connection(req, traces, timeout)


class HttpApp:
    """An app that is told by POST /job/<name> over HTTP/1.1."""

    def __init__(self, base: str, *, token: str) -> None:
        """`base` is scheme, host and port. Connects with the first trigger; each trigger in flight has a connection."""
        self._base = base
        self._token = token
        self._session: aiohttp.ClientSession | None = None

        @lru_cache(maxsize=_URLS_REMEMBERED)
        def url_of(path: str) -> URL:
            return URL(base + path, encoded=True)

        self._url_of = url_of

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
                connector=_Connector(),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding"],
            )
        return self._session

    async def deliver(self, trigger: pb.WatchJobsResponse) -> Verdict:
        """See AppChannel."""
        try:
            url, body = self._url_of(path_of(trigger.name)), body_of(trigger)
        except (ValueError, RecursionError) as error:
            _log.warning("trigger_undeliverable", job=trigger.name, error=str(error))
            return Verdict.FAILED
        headers = _headers(trigger, self._token)
        headers["content-length"] = str(len(body))
        # aiohttp sends a stream in pieces, and large bytes in one write that would hold the loop.
        data = body if len(body) < _LARGE_BODY_BYTES else io.BytesIO(body)
        try:
            async with self._open().post(url, data=data, headers=headers, allow_redirects=False) as answer:
                return verdict_of_http(answer.status)
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            _log.debug("app_unreached", job=trigger.name, error=repr(error))
            return Verdict.UNREACHED

    async def probe(self, path: str) -> bool:
        """See AppChannel."""
        try:
            async with self._open().get(URL(self._base + path, encoded=True), allow_redirects=False) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
            return False

    async def close(self) -> None:
        """See AppChannel."""
        if self._session is not None:
            await self._session.close()


class Http2App:
    """An app that is told by POST /job/<name> over cleartext HTTP/2: one connection carries all triggers."""

    def __init__(self, address: str, *, token: str) -> None:
        """Connects with the first trigger."""
        self._channel = Channel(address)
        self._token = token

    async def deliver(self, trigger: pb.WatchJobsResponse) -> Verdict:
        """See AppChannel."""
        try:
            path, body = path_of(trigger.name), body_of(trigger)
        except (ValueError, RecursionError) as error:
            _log.warning("trigger_undeliverable", job=trigger.name, error=str(error))
            return Verdict.FAILED
        try:
            return verdict_of_http(await exchange(self._channel, "POST", path, _headers(trigger, self._token), body))
        except RpcError as error:
            _log.debug("app_unreached", job=trigger.name, error=str(error))
            return Verdict.UNREACHED

    async def probe(self, path: str) -> bool:
        """See AppChannel."""
        try:
            return 200 <= await exchange(self._channel, "GET", path, {}, b"") < 300
        except RpcError:
            return False

    async def close(self) -> None:
        """See AppChannel."""
        await self._channel.close()


class GrpcApp:
    """An app that is told by OnJobEvent, or by OnJobEventAlpha1 where it does not know that."""

    def __init__(self, address: str, *, token: str, tls: bool, max_bytes: int) -> None:
        """Connects with the first trigger. Messages larger than `max_bytes` are not sent."""
        self._channel = Channel(address, tls=_unverified() if tls else None, limits=Limits(message_max_bytes=max_bytes))
        self._token = token
        self._max_bytes = max_bytes
        # The connection on which only the older call is known: it is asked first there, and nowhere else.
        self._alpha_on: object | None = None

    async def deliver(self, trigger: pb.WatchJobsResponse) -> Verdict:
        """See AppChannel."""
        data = event_of(trigger)
        if len(data) > self._max_bytes:
            _log.warning("trigger_undeliverable", job=trigger.name, bytes=len(data), allowed=self._max_bytes)
            return Verdict.FAILED
        metadata: Metadata = tuple({**identity_of(trigger), **context_of(trigger)}.items())
        if self._token:
            metadata = (*metadata, ("dapr-api-token", self._token))
        connection = self._channel.connection
        paths = (_STABLE, _ALPHA)
        if connection is not None and connection is self._alpha_on:
            paths = (_ALPHA, _STABLE)
        verdict = Verdict.FAILED
        for path in paths:
            try:
                await self._channel.unary(path, data, timeout_s=None, metadata=metadata)
            except RpcError as error:
                if error.status is Status.UNIMPLEMENTED:
                    continue
                _log.debug("app_failed", job=trigger.name, error=str(error))
                verdict = verdict_of_grpc(error)
            else:
                verdict = Verdict.TAKEN
            if path is not paths[0]:
                self._alpha_on = self._channel.connection if path is _ALPHA else None
            break
        return verdict

    async def probe(self, path: str) -> bool:  # noqa: ARG002 - gRPC has one fixed method
        """See AppChannel."""
        try:
            await self._channel.unary(_HEALTH, Empty().SerializeToString(), timeout_s=None)
        except RpcError:
            return False
        return True

    async def close(self) -> None:
        """See AppChannel."""
        await self._channel.close()


async def port_open(host: str, port: int, timeout_s: float) -> bool:
    """Whether something accepts connections there."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
