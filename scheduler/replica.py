"""One replica's rooms, fitted together. Nothing runs, listens or waits here: `app` gives it a life."""

import asyncio
import platform
import random
from collections import deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from scheduler import __version__
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2
from scheduler._pb.scheduler_admin.v1 import admin_pb2
from scheduler.aio.clock import Clock
from scheduler.cluster.cluster import Cluster
from scheduler.cluster.predecessor import LeaseFile
from scheduler.config import ServeSettings
from scheduler.core.lifecycle import Job
from scheduler.core.shares import Shares
from scheduler.delivery.hub import Hub
from scheduler.delivery.routes import Stream
from scheduler.engine.engine import Engine
from scheduler.engine.payloads import Payloads
from scheduler.engine.watchdog import Watchdog
from scheduler.etcd.client import Client
from scheduler.exposition import StatisticsCollector, capped
from scheduler.grpc_services import health_methods, reflection_methods
from scheduler.http2.call import Method
from scheduler.http2.grpc import Status
from scheduler.http2.server import ServerStatistics
from scheduler.metrics import (
    NAMESPACE_SERIES_MAX,
    ClusterStatistics,
    DeliveryStatistics,
    EngineStatistics,
    IdentityStatistics,
    KubernetesStatistics,
    ProcessStatistics,
    RpcStatistics,
)
from scheduler.rpc.admin import ADMIN_SERVICE, ETCD_TIMEOUT_S, Admin
from scheduler.rpc.authz import Authorizer
from scheduler.rpc.hosts import Hosts
from scheduler.rpc.jobs import SERVICE, Jobs
from scheduler.rpc.watch import Watch
from scheduler.samples import scheduler_samples
from scheduler.store.jobs import JobStore
from scheduler.store.keys import Keys
from scheduler.store.partition import PartitionReader
from scheduler.store.progress import ProgressLog

# An election of etcd's takes a few seconds; commits that fail for longer are worth saying.
_FAILING_S = 5.0
_RECHECK_S = 15.0
# An answer is given up between --ack-timeout and this fraction more.
_ACK_LOOKS = 8


class Replica:
    """The rooms of one replica, fitted together."""

    def __init__(
        self,
        settings: ServeSettings,
        etcd: Client,
        address: str,
        lease_file: LeaseFile | None,
        identity: IdentityStatistics,
        *,
        clock: Clock,
        rng: random.Random,
        process: ProcessStatistics | None = None,
        make_hub: Callable[..., Hub] = Hub,
        kept: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """`address` is what sidecars are told; `clock` and `rng` are all that it knows of time and chance.

        `make_hub` makes the hub, by default a plain one; `process` tells of the process around it; `kept` hears how many jobs have come into memory.
        """
        self.clock = clock
        self._new_hub = make_hub
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
        reader = PartitionReader(etcd=etcd, keys=keys, max_txn_ops=settings.etcd_max_txn_ops)
        self.payloads = Payloads(
            reader=reader, statistics=self.engine_statistics, kept_bytes=settings.payload_in_memory_bytes
        )
        self.engine = Engine(
            replica=settings.id,
            reader=reader,
            payloads=self.payloads,
            log=ProgressLog(etcd=etcd, keys=keys, max_txn_ops=settings.etcd_max_txn_ops),
            lease=lambda: self.cluster.tenure,
            clock=clock,
            statistics=self.engine_statistics,
            hub=self._make_hub,
            commit_window=settings.commit_window,
            kept=kept,
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
            max_txn_ops=settings.etcd_max_txn_ops,
        )
        self.process_statistics = process or ProcessStatistics()
        self.identity_statistics, self.kubernetes_statistics = identity, KubernetesStatistics()
        self.watchdog = Watchdog(engine=self.engine, statistics=self.engine_statistics, give_up=self.cluster.retire)
        self.leaving = False
        self.authorizer = Authorizer(
            tls=settings.mutual_tls,
            trust_domains=settings.trust_domains,
            clock=clock,
            statistics=self.rpc_statistics,
            operators=settings.admin_identities,
        )
        self.watch = Watch(hub=self.hub, authorizer=self.authorizer, statistics=self.rpc_statistics)

    def _make_hub(self, settle: Callable[[Job, bool], None], may_fire: Callable[[], bool]) -> Hub:
        self.hub = self._new_hub(
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
        jobs = Jobs(
            store=self.store,
            authorizer=self.authorizer,
            clock=self.clock,
            statistics=self.rpc_statistics,
            leaving=lambda: self.leaving,
        )
        admin = Admin(
            cluster=self.cluster,
            engine=self.engine,
            hub=self.hub,
            store=self.store,
            counters=self,
            authorizer=self.authorizer,
            clock=self.clock,
            not_ready=self.not_ready,
            leaving=lambda: self.leaving,
            etcd_status=lambda: self.etcd.status(timeout_s=ETCD_TIMEOUT_S),
        )
        services = [SERVICE, ADMIN_SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]
        return {
            **jobs.methods(),
            **Hosts(self.cluster.hosts).methods(),
            **self.watch.methods(),
            **admin.methods(),
            **health_methods(self._serving),
            **reflection_methods([scheduler_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR], services),
        }

    def _serving(self, service: str) -> bool | None:
        """For the health service. Operators are served as long as there is anybody to serve them."""
        if service == ADMIN_SERVICE:
            return True
        return self.not_ready() is None if service in {"", SERVICE} else None

    def not_ready(self) -> str | None:
        """Why this replica should not be sent to; None: it should."""
        if self.leaving:
            return "shutting down"
        if not self.cluster.tenure.may_act(self.clock.boottime_s()):
            return "no trusted lease in etcd"
        if self.cluster.aside:
            return "drained by an operator"
        if self.cluster.state != "serving":
            return f"{self.cluster.state} the cluster"
        if self.engine.commits.full:
            return "too many results wait for etcd"
        if failure := self.engine.commits.failing(_FAILING_S):
            return f"etcd takes no commits: {failure}"
        return self.watchdog.not_ready()

    def not_live(self) -> str | None:
        """Why this replica should be restarted; None: it should not. What etcd does or does not is no reason."""
        return self.watchdog.not_live()

    def registry(self, server: Callable[[], ServerStatistics]) -> CollectorRegistry:
        """All metrics; `server` tells those of the gRPC server."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        engine, hub = self.engine, self.hub

        def by_method(path: str) -> tuple[str, str]:
            service, _, method = path[1:].partition("/")
            return service, method

        def grpc_handled(calls: ServerStatistics) -> dict[tuple[str, str, str], float]:
            ended = {
                (*by_method(path), Status(status).name): float(count) for (path, status), count in calls.ends.items()
            }
            return ended | {
                (*by_method(path), "OK"): float(sum(source.counts)) for path, source in calls.seconds.items()
            }

        version = (__version__, platform.python_version())
        registry.register(
            StatisticsCollector(
                scheduler_samples(
                    engine=self.engine_statistics,
                    delivery=self.delivery_statistics,
                    cluster=self.cluster_statistics,
                    rpc=self.rpc_statistics,
                    identity=self.identity_statistics,
                    kubernetes=self.kubernetes_statistics,
                    process=self.process_statistics,
                    gauges={
                        "connections": lambda: server().connections,
                        "in_flight": hub.in_flight_count,
                        "stream_blocked": hub.stream_blocked_s,
                        "oldest_in_flight": hub.oldest_in_flight_s,
                        "waiting": lambda: sum(count for _, count in hub.waiting()),
                        "streams": lambda: hub.stream_count,
                        "jobs": engine.job_count,
                        "resting": lambda: self.payloads.resting,
                        "resting_bytes": lambda: self.payloads.resting_bytes,
                        "owned": lambda: len(engine.partitions),
                        "partitions": lambda: self.settings.partitions,
                        "tasks": lambda: len(asyncio.all_tasks()),
                        "oldest_due": engine.oldest_due_s,
                        "stuck": lambda: self.watchdog.stuck_s,
                        "uncommitted": lambda: engine.commits.uncommitted,
                        "ready": lambda: float(self.not_ready() is None),
                        "next_due": lambda: (engine.timers.next_due_ns() or 0) * 1e-9,
                        "etcd_conflicts": lambda: self.etcd.conflicts,
                        "watch_lag": lambda: self.etcd.watch_lag_s,
                        "clock": lambda: self.clock.wall_ns() * 1e-9,
                        "lease": lambda: self._wall(self.cluster.tenure.trusted_until_s),
                    },
                    gates=hub.gates,
                    reference_names=self.settings.metrics_dapr_names,
                    tables={
                        "build": lambda: {version: 1.0},
                        "namespace_waiting": lambda: capped(hub.waiting(), NAMESPACE_SERIES_MAX),
                        "namespace_streams": lambda: capped(hub.namespaces_of_streams(), NAMESPACE_SERIES_MAX),
                        "refusals": lambda: server().failures,
                        "grpc_started": lambda: {by_method(path): count for path, count in server().started.items()},
                        "grpc_handled": lambda: grpc_handled(server()),
                        "grpc_seconds": lambda: {
                            by_method(path): source.samples() for path, source in server().seconds.items()
                        },
                        "etcd_requests": lambda: dict(self.etcd.requests),
                        "etcd_seconds": lambda: {name: one.samples() for name, one in self.etcd.seconds.items()},
                        "etcd_reconnects": lambda: dict(self.etcd.watch_reconnects),
                    },
                )
            )
        )
        return registry

    def _wall(self, boottime_s: float) -> float:
        """An instant of CLOCK_BOOTTIME as seconds since the epoch; 0 for one that never was."""
        if boottime_s == float("-inf"):
            return 0.0
        return self.clock.wall_ns() * 1e-9 + boottime_s - self.clock.boottime_s()

    async def recheck_streams(self) -> None:
        """Until cancelled: a stream whose certificate expires, or loses its trust anchor, ends soon afterwards."""
        while True:
            await asyncio.sleep(_RECHECK_S)
            self.watch.recheck()

    async def give_up_unanswered(self) -> None:
        """Until cancelled: triggers that are not answered in time count as failed. The wall clock has no say in what is in time."""
        pause_s = self.settings.ack_timeout_s / _ACK_LOOKS
        sent: deque[dict[Stream, int]] = deque()
        while True:
            sent.append(self.hub.sent_so_far())
            if len(sent) > _ACK_LOOKS:
                self.hub.give_up(sent.popleft())
            await asyncio.sleep(pause_s)

    def acts_for_the_cluster(self) -> bool:
        """Whether this replica does what only one should do: the owner of partition 0."""
        return 0 in self.cluster.owned() and self.cluster.tenure.may_act(self.clock.boottime_s())
