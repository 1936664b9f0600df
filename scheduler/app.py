"""The life of one replica: its etcd, its certificate, its ports, the signals, and the order of starting and stopping (house: the composition root)."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler import __version__
from scheduler.aio.clock import SystemClock
from scheduler.aio.endpoint import Check, Endpoints
from scheduler.aio.garbage import Garbage
from scheduler.cluster.predecessor import LeaseFile
from scheduler.config import ConfigError, ServeSettings, is_loopback
from scheduler.core.errors import SchedulerError
from scheduler.delivery.hub import Hub
from scheduler.etcd.client import Client, Credentials
from scheduler.etcd.embedded import EmbeddedEtcd
from scheduler.etcd.errors import EtcdError
from scheduler.http2.limits import Limits
from scheduler.http2.server import Server
from scheduler.identity.contexts import ClientTls
from scheduler.identity.sentry import SentrySource
from scheduler.identity.server import ServerIdentity
from scheduler.identity.sources import FileSource, Source
from scheduler.logs import get_logger
from scheduler.metrics import IdentityStatistics, ProcessStatistics
from scheduler.replica import Replica
from scheduler.store.errors import WrongCluster

_START_RETRY_S = 0.5
_TELL_AGAIN_S = 10.0
_IDENTITY_RETRY_S = 2.0
_STREAM_GRACE_S = 0.5

# Files that are no client's connection: etcd, listeners, probes and scrapes, certificates being read.
_OTHER_FILES = 200

_log = get_logger("app")


@dataclass(slots=True)
class _Process:
    """What there is before a replica is."""

    settings: ServeSettings
    statistics: ProcessStatistics
    garbage: Garbage
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    endpoints: Endpoints = field(default_factory=Endpoints)
    live: dict[str, Check] = field(default_factory=dict)
    ready: dict[str, Check] = field(default_factory=dict)
    identity: IdentityStatistics = field(default_factory=IdentityStatistics)
    embedded: EmbeddedEtcd | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(int.from_bytes(os.urandom(16), "big")))

    @contextlib.contextmanager
    def not_ready_while(self, name: str, problem: str) -> Iterator[None]:
        """Readiness says why, meanwhile."""
        self.ready[name] = lambda: problem
        yield
        del self.ready[name]


async def run(settings: ServeSettings, statistics: ProcessStatistics) -> int:
    """Serve until SIGTERM or SIGINT, then stop in order. Returns the exit code; raises OSError for a port that is taken."""
    _raise_file_limit()
    garbage = Garbage(statistics.collection_seconds.observe)
    garbage.install()
    process = _Process(settings, statistics, garbage)
    # Until there is a replica that says otherwise: not a moment may look ready before.
    process.ready["replica"] = lambda: "starting"
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop.set)
    code = 1
    try:
        host, port = settings.healthz_listen_address, settings.healthz_port
        with _told_by("--healthz-port"):
            await process.endpoints.serve_health(host, port, live=process.live, ready=process.ready)
        async with _etcd(process) as etcd:
            with process.not_ready_while("identity", "there is no certificate yet"):
                identity = await _identity(process)
            code = 0 if process.stop.is_set() else await _serve(process, etcd, identity)
    except* WrongCluster as group:
        for error in group.exceptions:
            _log.error("cannot_start", error=str(error))
    finally:
        await process.endpoints.close()
        garbage.uninstall()
    return code


@contextlib.contextmanager
def _told_by(flag: str) -> Iterator[None]:
    """A port that cannot be had names the flag that chooses another."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{flag}: {error.strerror or error}") from error


def _raise_file_limit() -> None:
    """Each connection is an open file, and the usual soft limit of 1,024 is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _limits(settings: ServeSettings) -> Limits:
    """The transport's limits: no more connections than open files, of which handshakes, etcd and our own need some."""
    limits = Limits(connections_max=settings.max_connections, message_max_bytes=settings.message_max_bytes)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fit = max(1, files - limits.handshakes_max - _OTHER_FILES)
    if fit >= limits.connections_max:
        return limits
    _log.warning("connections_limited", connections=fit, wanted=limits.connections_max, open_files=files)
    return replace(limits, connections_max=fit)


@asynccontextmanager
async def _etcd(process: _Process) -> AsyncIterator[Client]:
    """The etcd client, and the embedded etcd if that is what it talks to; it has started, unless the process is to stop."""
    settings = process.settings
    embedded: EmbeddedEtcd | None = None
    addresses = settings.etcd_client_endpoints
    if settings.etcd_embed:
        embedded = process.embedded = EmbeddedEtcd.of(settings)
        with process.not_ready_while("etcd", "the embedded etcd has not started"):
            await embedded.start(process.stop)
        addresses = (embedded.endpoint,)
    credentials = None
    if settings.etcd_client_username:
        password_file = settings.etcd_client_password_file
        password = password_file.read_text().strip() if password_file else ""
        credentials = Credentials(user=settings.etcd_client_username, password=password)
    tls: ClientTls | None = None
    follower: asyncio.Task[None] | None = None
    if settings.etcd_ca_file or settings.etcd_cert_file:
        source = FileSource(
            "etcd", settings.etcd_cert_file, settings.etcd_key_file, settings.etcd_ca_file, process.identity
        )
        material = await source.fetch()
        tls = ClientTls(material)
        follower = asyncio.create_task(source.follow(tls.update, material), name="certificate towards etcd")
    client = Client(addresses, rng=process.rng, tls=tls, credentials=credentials)
    try:
        yield client
    finally:
        if follower is not None:
            follower.cancel()
        await client.close()
        if embedded is not None:
            await embedded.stop()


async def _identity(process: _Process) -> ServerIdentity | None:
    """Our certificate, as soon as there is one; None: plaintext, or the process is to stop."""
    settings, statistics = process.settings, process.identity
    source: Source
    if settings.from_sentry:
        source = SentrySource(
            address=settings.sentry_address or f"dapr-sentry.{settings.namespace}.svc:443",
            trust_domain=settings.trust_domain,
            namespace=settings.namespace,
            app_id=settings.sentry_identity,
            anchors_file=settings.trust_anchors_file,
            token_file=settings.sentry_token_file,
            kubernetes=settings.mode == "kubernetes",
            clock=SystemClock(),
            rng=process.rng,
            statistics=statistics,
        )
    elif settings.tls_cert_file is not None:
        source = FileSource("server", settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file, statistics)
    else:
        return None
    while not process.stop.is_set():
        try:
            return ServerIdentity(source, await source.fetch())
        except (OSError, ValueError, ssl.SSLError, SchedulerError) as error:
            if not settings.from_sentry:
                raise
            _log.error("no_certificate", error=str(error), next_try_s=_IDENTITY_RETRY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDENTITY_RETRY_S):
                    await process.stop.wait()
    return None


def _lease_file(settings: ServeSettings) -> LeaseFile | None:
    try:
        return LeaseFile(settings.etcd_data_dir / f"{settings.id}.lease")
    except OSError as error:
        _log.warning("lease_file_unusable", error=str(error), hint="after a crash the old lease must expire by itself")
        return None


def _advertised(settings: ServeSettings, port: int) -> str:
    """What sidecars are told to connect to (scheduler-service.md 4.5)."""
    if settings.override_broadcast_host_port:
        return settings.override_broadcast_host_port
    host = settings.listen_address
    if not is_loopback(host):
        host = os.environ.get("DAPR_HOST_IP") or _host_ip()
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _host_ip() -> str:
    """The address that this machine would use towards the world; nothing is sent."""
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((probe, 9))
            host: str = one.getsockname()[0]
            return host
    return "127.0.0.1"


def _tracing(settings: ServeSettings, clock: SystemClock) -> Any:
    """Spans where they are asked for. Raises ConfigError where OpenTelemetry is not installed."""
    if settings.tracing == "off":
        return None
    try:
        # Only here: it is an extra, and its import takes time.
        from scheduler import tracing
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--tracing is {settings.tracing}, and {error.name} is not installed: pip install '.[otel]' in a checkout"
        ) from error
    return tracing.start(
        replica=settings.id,
        propagation=settings.tracing,
        spans_per_second=settings.tracing_spans_per_second,
        wall_ns=clock.wall_ns,
    )


async def _serve(process: _Process, etcd: Client, identity: ServerIdentity | None) -> int:
    settings = process.settings
    # The port is bound before anybody is told of it, and answers only once the methods are there.
    limits = _limits(settings)
    server = Server(
        methods={},
        limits=limits,
        on_error=lambda path, error: _log.error("handler_failed", path=path, error=repr(error)),
    )
    tls = identity.tls.context if identity else None
    with _told_by("--port"):
        port = await server.listen(settings.listen_address, settings.port, tls=tls)
    lease_file, clock = _lease_file(settings), SystemClock()
    tracing = _tracing(settings, clock)
    replica = Replica(
        settings,
        etcd,
        _advertised(settings, port),
        lease_file,
        process.identity,
        clock=clock,
        rng=process.rng,
        process=process.statistics,
        make_hub=tracing.hub if tracing else Hub,
        kept=process.garbage.kept,
    )
    if tracing:
        tracing.acknowledgement_seconds = replica.engine_statistics.acknowledgement_seconds
    server.methods.update(tracing.methods(replica.methods()) if tracing else replica.methods())
    if tls is None and not is_loopback(settings.listen_address):
        _log.warning("plaintext_on_the_network", listen_address=settings.listen_address)
    process.live["engine"], process.ready["replica"] = replica.not_live, replica.not_ready
    if settings.enable_metrics:
        host = settings.metrics_listen_address
        more = process.embedded.metrics if process.embedded else None
        registry = replica.registry(server.statistics)
        with _told_by("--metrics-port"):
            await process.endpoints.serve_metrics(
                host, settings.metrics_port, registry, more=more, exemplars=bool(tracing)
            )
    _log.info("serving", id=settings.id, port=port, version=__version__, partitions=settings.partitions)
    async with asyncio.TaskGroup() as tasks:
        work = [
            tasks.create_task(replica.store.run(), name="store"),
            tasks.create_task(replica.engine.run(), name="engine"),
            tasks.create_task(replica.watchdog.run(), name="watchdog"),
            tasks.create_task(_take_part(replica, process.stop), name="cluster"),
        ]
        if identity is not None:
            work.append(tasks.create_task(identity.follow(replica.authorizer.trust), name="certificates"))
            work.append(tasks.create_task(replica.recheck_streams(), name="identities of streams"))
        if settings.ack_timeout_s:
            work.append(tasks.create_task(replica.give_up_unanswered(), name="unanswered triggers"))
        if settings.mode == "kubernetes":
            work.append(tasks.create_task(_namespaces(replica), name="namespaces"))
        await process.stop.wait()
        _log.info("stopping", id=settings.id)
        # Partitions are given up first, then the lease, then the streams: the reverse order would leave a window
        # with two owners, or cut streams while their triggers are in flight.
        await replica.cluster.drain(settings.drain_timeout_s)
        replica.leaving = True
        server.stop_accepting()
        await server.close(grace_s=_STREAM_GRACE_S)
        for task in work:
            task.cancel()
    if tracing:
        await tracing.close()
    _log.info("stopped", id=settings.id)
    return 0


async def _namespaces(replica: Replica) -> None:
    """Jobs go with their Kubernetes namespace."""
    # Only here: the client's import costs a second that nobody else should wait for.
    from scheduler.kubernetes.namespaces import NamespaceController, configuration

    controller = NamespaceController(
        store=replica.store,
        configuration=await configuration(replica.settings.kubeconfig),
        acting=replica.acts_for_the_cluster,
        statistics=replica.kubernetes_statistics,
    )
    await controller.run()


async def _take_part(replica: Replica, stop: asyncio.Event) -> None:
    """Wait for etcd, then be a member."""
    told_s = float("-inf")
    while not stop.is_set():
        try:
            await replica.cluster.start()
            break
        except EtcdError as error:
            if (now_s := replica.clock.boottime_s()) - told_s >= _TELL_AGAIN_S:
                told_s = now_s
                _log.warning("etcd_not_there", error=str(error), hint="trying on; --etcd-client-endpoints says where")
            await asyncio.sleep(_START_RETRY_S)
    await replica.cluster.run()
