"""One replica: builds the rooms, owns the root task group, the signals and the order of stopping (house: the composition root)."""

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from scheduler import __version__
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2
from scheduler.aio.clock import SystemClock
from scheduler.aio.endpoint import Check, Endpoints
from scheduler.cluster.cluster import Cluster
from scheduler.cluster.predecessor import LeaseFile
from scheduler.config import ServeSettings, is_loopback
from scheduler.core.lifecycle import Job
from scheduler.core.shares import Shares
from scheduler.delivery.hub import Hub
from scheduler.engine.engine import Engine
from scheduler.etcd.binary import find_etcd
from scheduler.etcd.client import Client, Credentials
from scheduler.etcd.embedded import EmbeddedEtcd
from scheduler.etcd.errors import EtcdError
from scheduler.grpc_services import health_methods, reflection_methods
from scheduler.http2.server import Method, Server
from scheduler.logs import get_logger
from scheduler.metrics import (
    ClusterStatistics,
    DeliveryStatistics,
    EngineStatistics,
    RpcStatistics,
    StatisticsCollector,
    scheduler_samples,
)
from scheduler.rpc.authz import Authorizer
from scheduler.rpc.hosts import Hosts
from scheduler.rpc.jobs import SERVICE, Jobs
from scheduler.rpc.watch import Watch
from scheduler.store.errors import WrongCluster
from scheduler.store.jobs import JobStore
from scheduler.store.keys import Keys
from scheduler.store.partition import PartitionReader
from scheduler.store.progress import ProgressLog
from scheduler.tls import client_context, server_context

_START_RETRY_S = 0.5
_STREAM_GRACE_S = 0.5
# No progress of the commits for so long, with results waiting, is a fault that a restart may mend.
_STUCK_S = 60.0
# The collector looks at young objects only now and then: a replica's jobs live long, and their garbage is mostly acyclic.
_GC_THRESHOLDS = (50_000, 20, 100)

_log = get_logger("app")


class Replica:
    """The rooms of one replica, fitted together."""

    def __init__(self, settings: ServeSettings, etcd: Client, address: str, lease_file: LeaseFile | None) -> None:
        """Builds; nothing runs yet. `address` is what sidecars are told."""
        clock = self.clock = SystemClock()
        rng = random.Random(int.from_bytes(os.urandom(16), "big"))
        keys = Keys(settings.etcd_root)
        self.settings = settings
        self.etcd = etcd
        self.engine_statistics, self.delivery_statistics = EngineStatistics(), DeliveryStatistics()
        self.cluster_statistics, self.rpc_statistics = ClusterStatistics(), RpcStatistics()
        self.shares = Shares()
        self.store = JobStore(
            etcd=etcd,
            keys=keys,
            partition_count=settings.partitions,
            rng=rng,
            max_txn_ops=settings.etcd_max_txn_ops,
            max_request_bytes=settings.etcd_max_request_bytes,
        )
        self.engine = Engine(
            replica=settings.id,
            reader=PartitionReader(etcd=etcd, keys=keys),
            log=ProgressLog(etcd=etcd, keys=keys, max_txn_ops=settings.etcd_max_txn_ops),
            lease=lambda: self.cluster.tenure,
            clock=clock,
            statistics=self.engine_statistics,
            hub=self._make_hub,
            commit_window=settings.commit_window,
        )
        self.cluster = Cluster(
            etcd=etcd,
            keys=keys,
            replica=settings.id,
            address=address,
            version=__version__,
            partition_count=settings.partitions,
            lease_ttl_s=settings.lease_ttl_s,
            clock=clock,
            rng=rng,
            owner=lambda: self.engine,
            shares=self.shares,
            gates=lambda: self.hub,
            statistics=self.cluster_statistics,
            lease_file=lease_file,
        )
        self.leaving = False

    def _make_hub(self, settle: Callable[[Job, bool], None], may_fire: Callable[[], bool]) -> Hub:
        self.hub = Hub(
            replica=self.settings.id,
            settle=settle,
            may_fire=may_fire,
            clock=self.clock,
            statistics=self.delivery_statistics,
            window=self.settings.in_flight_per_stream,
            shares=self.shares,
            excess_shrunk=lambda: self.cluster.look(),  # noqa: PLW0108 - the cluster is made later
        )
        return self.hub

    def methods(self) -> dict[str, Method]:
        """All that the gRPC server offers."""
        settings = self.settings
        authorizer = Authorizer(
            tls=settings.tls_ca_file is not None,
            trust_domains=frozenset(settings.trust_domains),
            statistics=self.rpc_statistics,
        )
        jobs = Jobs(
            store=self.store,
            authorizer=authorizer,
            clock=self.clock,
            statistics=self.rpc_statistics,
            leaving=lambda: self.leaving,
        )
        watch = Watch(hub=self.hub, authorizer=authorizer, statistics=self.rpc_statistics)
        services = [SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]
        return {
            **jobs.methods(),
            **Hosts(self.cluster.hosts).methods(),
            **watch.methods(),
            **health_methods(lambda name: self.not_ready() is None if name in {"", SERVICE} else None),
            **reflection_methods([scheduler_pb2.DESCRIPTOR], services),
        }

    def not_ready(self) -> str | None:
        """Why this replica should not be sent to; None: it should."""
        if self.leaving:
            return "shutting down"
        if not self.cluster.tenure.may_act(self.clock.boottime_s()):
            return "no trusted lease in etcd"
        if self.cluster.state != "serving":
            return f"{self.cluster.state} the cluster"
        if self.engine.commits.full:
            return "too many results wait for etcd"
        return None

    def not_live(self) -> str | None:
        """Why this replica should be restarted; None: it should not."""
        commits = self.engine.commits
        stuck_s = self.clock.boottime_s() - commits.last_commit_s
        if commits.uncommitted and stuck_s > _STUCK_S and self.cluster.tenure.may_act(self.clock.boottime_s()):
            return f"no commit for {stuck_s:.0f} s with {commits.uncommitted} results waiting"
        return None

    def registry(self) -> CollectorRegistry:
        """All metrics."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        engine, hub = self.engine, self.hub

        def etcd_requests() -> dict[str, float]:
            totals: dict[str, float] = {}
            for (operation, _), count in self.etcd.requests.items():
                totals[operation] = totals.get(operation, 0) + count
            return totals

        registry.register(
            StatisticsCollector(
                scheduler_samples(
                    engine=self.engine_statistics,
                    delivery=self.delivery_statistics,
                    cluster=self.cluster_statistics,
                    rpc=self.rpc_statistics,
                    gauges={
                        "in_flight": hub.in_flight_count,
                        "waiting": hub.waiting_count,
                        "streams": lambda: hub.stream_count,
                        "jobs": engine.job_count,
                        "owned": lambda: len(engine.partitions),
                        "partitions": lambda: self.settings.partitions,
                        "uncommitted": lambda: engine.commits.uncommitted,
                        "ready": lambda: float(self.not_ready() is None),
                    },
                    gates=hub.gates,
                    etcd_requests=etcd_requests,
                )
            )
        )
        return registry


async def run(settings: ServeSettings) -> int:
    """Serve until SIGTERM or SIGINT, then stop in order. Returns the exit code; raises OSError for a port that is taken."""
    gc.set_threshold(*_GC_THRESHOLDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    endpoints = Endpoints()
    live: dict[str, Check] = {}
    ready: dict[str, Check] = {"etcd": lambda: "the embedded etcd has not started"}
    code = 1
    try:
        await endpoints.serve_health(settings.healthz_listen_address, settings.healthz_port, live=live, ready=ready)
        async with _etcd(settings, stop) as etcd:
            del ready["etcd"]
            code = 0 if stop.is_set() else await _serve(settings, etcd, stop, endpoints, live, ready)
    except* WrongCluster as group:
        for error in group.exceptions:
            _log.error("cannot_start", error=str(error))
    finally:
        await endpoints.close()
    return code


@asynccontextmanager
async def _etcd(settings: ServeSettings, stop: asyncio.Event) -> AsyncIterator[Client]:
    """The etcd client, and the embedded etcd if that is what it talks to; it has started, unless `stop` is set."""
    embedded: EmbeddedEtcd | None = None
    addresses = settings.etcd_client_endpoints
    if settings.etcd_embed:
        binary = find_etcd()
        if binary.warning:
            _log.warning("etcd_version", problem=binary.warning)
        embedded = EmbeddedEtcd(
            binary=binary,
            data_dir=settings.etcd_data_dir,
            client_port=settings.etcd_client_port,
            max_txn_ops=settings.etcd_max_txn_ops,
            max_request_bytes=settings.etcd_max_request_bytes,
        )
        await embedded.start(stop)
        addresses = (embedded.endpoint,)
    credentials = None
    if settings.etcd_client_username:
        password_file = settings.etcd_client_password_file
        password = password_file.read_text().strip() if password_file else ""
        credentials = Credentials(user=settings.etcd_client_username, password=password)
    tls: ssl.SSLContext | None = None
    if settings.etcd_ca_file or settings.etcd_cert_file:
        tls = client_context(settings.etcd_ca_file, settings.etcd_cert_file, settings.etcd_key_file)
    rng = random.Random(int.from_bytes(os.urandom(8), "big"))
    client = Client(addresses, rng=rng, tls=tls, credentials=credentials)
    try:
        yield client
    finally:
        await client.close()
        if embedded is not None:
            await embedded.stop()


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


async def _serve(
    settings: ServeSettings,
    etcd: Client,
    stop: asyncio.Event,
    endpoints: Endpoints,
    live: dict[str, Check],
    ready: dict[str, Check],
) -> int:
    # The port is bound before anybody is told of it, and answers only once the methods are there.
    tls = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        tls = server_context(settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file)
    server = Server(methods={}, on_error=lambda path, error: _log.error("handler_failed", path=path, error=repr(error)))
    port = await server.listen(settings.listen_address, settings.port, tls=tls)
    replica = Replica(settings, etcd, _advertised(settings, port), _lease_file(settings))
    server.methods.update(replica.methods())
    if tls is None and not is_loopback(settings.listen_address):
        _log.warning("plaintext_on_the_network", listen_address=settings.listen_address)
    live["engine"], ready["replica"] = replica.not_live, replica.not_ready
    if settings.enable_metrics:
        await endpoints.serve_metrics(settings.metrics_listen_address, settings.metrics_port, replica.registry())
    _log.info("serving", id=settings.id, port=port, version=__version__, partitions=settings.partitions)
    async with asyncio.TaskGroup() as tasks:
        work = [
            tasks.create_task(replica.store.run(), name="store"),
            tasks.create_task(replica.engine.run(), name="engine"),
        ]
        member = tasks.create_task(_take_part(replica, stop), name="cluster")
        await stop.wait()
        _log.info("stopping", id=settings.id)
        # Partitions are given up first, then the lease, then the streams: the reverse order would leave a window
        # with two owners, or cut streams while their triggers are in flight.
        await replica.cluster.drain(settings.drain_timeout_s)
        replica.leaving = True
        server.stop_accepting()
        await server.close(grace_s=_STREAM_GRACE_S)
        for task in (*work, member):
            task.cancel()
    _log.info("stopped", id=settings.id)
    return 0


async def _take_part(replica: Replica, stop: asyncio.Event) -> None:
    """Wait for etcd, then be a member."""
    while not stop.is_set():
        try:
            await replica.cluster.start()
            break
        except EtcdError as error:
            _log.warning("etcd_not_there", error=str(error))
            await asyncio.sleep(_START_RETRY_S)
    await replica.cluster.run()
