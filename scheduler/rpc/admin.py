"""The operators' API (protos/scheduler_admin): what this replica is and sees, and the few things that it is told to do.

Each replica speaks for itself alone: whoever wants the whole cluster asks every member. Nothing here is on the way of a trigger.
"""

import asyncio
import re
import resource
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from scheduler._pb.scheduler_admin.v1 import admin_pb2 as pb
from scheduler._pb.scheduler_storage.v1 import storage_pb2
from scheduler.aio.clock import Clock
from scheduler.cluster.cluster import Cluster
from scheduler.core import names
from scheduler.core.errors import SchedulerError
from scheduler.delivery.hub import Hub
from scheduler.engine.engine import Engine
from scheduler.etcd.client import EndpointStatus
from scheduler.exposition import Histogram
from scheduler.http2.call import Call, Method, Unary, coroutine
from scheduler.http2.grpc import RpcError, Status
from scheduler.logs import get_logger
from scheduler.metrics import DeliveryStatistics, EngineStatistics, IdentityStatistics, RpcStatistics
from scheduler.rpc.authz import Authorizer
from scheduler.rpc.jobs import parse
from scheduler.rpc.status import rpc_error
from scheduler.store.codec import set_instant
from scheduler.store.errors import JobExists, StoreError
from scheduler.store.jobs import JobStore

ADMIN_SERVICE = "scheduler.admin.v1.Admin"
ETCD_TIMEOUT_S = 2.0
STORE_TIMEOUT_S = 5.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9]{8,64}")

_log = get_logger("rpc.admin")


class Counters(Protocol):
    """What the rooms have counted."""

    @property
    def engine_statistics(self) -> EngineStatistics:
        """The engine's."""

    @property
    def delivery_statistics(self) -> DeliveryStatistics:
        """The hub's."""

    @property
    def rpc_statistics(self) -> RpcStatistics:
        """The services'."""

    @property
    def identity_statistics(self) -> IdentityStatistics:
        """Of certificates."""


class Admin:
    """The servicer."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        engine: Engine,
        hub: Hub,
        store: JobStore,
        counters: Counters,
        authorizer: Authorizer,
        clock: Clock,
        not_ready: Callable[[], str | None],
        leaving: Callable[[], bool],
        etcd_status: Callable[[], Awaitable[list[EndpointStatus]]],
    ) -> None:
        """`not_ready` says why the replica should not be sent to; while `leaving()` it takes no orders."""
        self._cluster = cluster
        self._engine = engine
        self._hub = hub
        self._store = store
        self._counters = counters
        self._authorizer = authorizer
        self._clock = clock
        self._not_ready = not_ready
        self._leaving = leaving
        self._etcd_status = etcd_status

    def methods(self) -> dict[str, Method]:
        """By full path."""
        return {
            f"/{ADMIN_SERVICE}/GetStatus": coroutine(self._get_status),
            f"/{ADMIN_SERVICE}/ListMembers": Unary(self._list_members),
            f"/{ADMIN_SERVICE}/ListPartitions": Unary(self._list_partitions),
            f"/{ADMIN_SERVICE}/DrainMember": Unary(self._drain_member),
            f"/{ADMIN_SERVICE}/RunNow": coroutine(self._run_now),
        }

    # What is

    async def _get_status(self, request: bytes, call: Call) -> bytes:
        message = parse(pb.GetStatusRequest, request)
        self._authorizer.check_operator(call)
        etcd = await self._etcd_status() if message.with_etcd else []
        cluster, clock = self._cluster, self._clock
        me = next((one for one in self._members() if one.replica == cluster.replica), None)
        not_ready = self._not_ready()
        answer = pb.GetStatusResponse(
            member=me or pb.Member(replica=cluster.replica, state=cluster.state),
            ready=not_ready is None,
            not_ready=not_ready or "",
            drained=cluster.aside,
            lease_id=cluster.lease,
            # Without a lease the tenure ended at minus infinity.
            lease_trusted_s=max(-1.0, cluster.tenure.trusted_until_s - clock.boottime_s()),
            partition_count=cluster.partition_count,
            load=self._load(),
            totals=self._totals(),
            etcd=[_endpoint(one) for one in etcd],
            process=pb.Process(
                wall_unix_ns=clock.wall_ns(),
                boottime_s=clock.boottime_s(),
                open_files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                certificates_end_unix_s=self._counters.identity_statistics.expiries,
                mutual_tls=self._authorizer.tls,
            ),
        )
        return answer.SerializeToString()

    def _load(self) -> pb.Load:
        hub, engine = self._hub, self._engine
        return pb.Load(
            jobs=engine.job_count(),
            streams=hub.stream_count,
            in_flight=hub.in_flight_count(),
            staged=sum(count for _, count in hub.waiting()),
            uncommitted=engine.commits.uncommitted,
            oldest_due_s=engine.oldest_due_s(),
            next_due_unix_ns=engine.timers.next_due_ns() or 0,
        )

    def _totals(self) -> pb.Totals:
        engine, delivery = self._counters.engine_statistics, self._counters.delivery_statistics
        rpc = self._counters.rpc_statistics
        return pb.Totals(
            sent=delivery.sent,
            succeeded=sum(engine.succeeded),
            failed=sum(engine.failed),
            undeliverable=sum(delivery.undelivered),
            jobs_created=sum(rpc.created),
            jobs_deleted=sum(rpc.deleted),
            commits=engine.commits,
            lateness=_summed(one.lateness for one in delivery.namespaces.values()),
        )

    def _members(self) -> list[pb.Member]:
        view = self._cluster.view
        owners = [claim.replica for claim in view.claims.values()]
        return [
            _member(name, record, view.joined.get(name, 0), owners.count(name))
            for name, record in sorted(view.members.items())
        ]

    def _list_members(self, request: bytes, call: Call) -> None:
        parse(pb.ListMembersRequest, request)
        self._authorizer.check_operator(call)
        answer = pb.ListMembersResponse(replica=self._cluster.replica, members=self._members())
        call.reply(answer.SerializeToString())

    def _list_partitions(self, request: bytes, call: Call) -> None:
        parse(pb.ListPartitionsRequest, request)
        self._authorizer.check_operator(call)
        claims, owned = self._cluster.view.claims, self._engine.partitions
        answer = pb.ListPartitionsResponse(replica=self._cluster.replica)
        for number in range(self._cluster.partition_count):
            shown = answer.partitions.add(number=number)
            if (claim := claims.get(number)) is not None:
                shown.owner, shown.epoch, shown.lease_id = claim.replica, claim.epoch, claim.lease
            if (mine := owned.get(number)) is not None:
                shown.owned.phase = mine.phase.value
                shown.owned.jobs = len(mine.jobs)
                shown.owned.in_flight = mine.in_flight
                shown.owned.uncommitted = len(mine.settled)
        call.reply(answer.SerializeToString())

    # What is ordered

    def _drain_member(self, request: bytes, call: Call) -> None:
        message = parse(pb.DrainMemberRequest, request)
        self._authorizer.check_operator(call)
        cluster = self._cluster
        if message.replica != cluster.replica:
            raise RpcError(Status.FAILED_PRECONDITION, f"this is replica {cluster.replica!r}, not {message.replica!r}")
        others = [name for name, one in cluster.members().items() if one.state == storage_pb2.Member.STATE_SERVING]
        if not message.undrain and not message.force and not set(others) - {cluster.replica}:
            text = "no other member is serving: nothing would fire until one does"
            raise RpcError(Status.FAILED_PRECONDITION, text)
        event = "undrain_ordered" if message.undrain else "drain_ordered"
        _log.info(event, replica=cluster.replica, by=self._authorizer.name(call), peer=call.peer.address)
        cluster.set_aside(aside=not message.undrain)
        call.reply(pb.DrainMemberResponse(partitions=len(cluster.owned())).SerializeToString())

    async def _run_now(self, request: bytes, call: Call) -> bytes:
        """The occurrence is a one-shot job of its own that carries the job's name and data: it enters the engine of its partition's owner like any other."""
        message = parse(pb.RunNowRequest, request)
        metadata = message.metadata
        target = self._authorizer.target(call, metadata, or_operator=True)
        if self._leaving():
            raise RpcError(Status.CANCELLED, "the scheduler is shutting down")
        if not _REQUEST_ID.fullmatch(message.request_id):
            text = f"request_id is {message.request_id[:80]!r}; allowed are 8 to 64 letters and digits"
            raise RpcError(Status.INVALID_ARGUMENT, text)
        try:
            names.check_name(names.reference_name(target, message.name))
            job = await self._store.get(names.storage_key(target, message.name), timeout_s=STORE_TIMEOUT_S)
        except SchedulerError as error:
            raise rpc_error(error) from error
        if job is None:
            raise RpcError(Status.NOT_FOUND, f"job not found: {message.name}")
        now_ns = self._clock.wall_ns()
        occurrence = storage_pb2.JobRecord(trigger=job.trigger, failure_policy=job.failure_policy)
        set_instant(occurrence.created, now_ns)
        set_instant(occurrence.first, now_ns)
        stored: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()

        def done(error: StoreError | None) -> None:
            if not stored.done():
                stored.set_result(error)

        key = names.run_now_key(target, message.name, message.request_id)
        self._store.put(key, occurrence, overwrite=False, done=done)
        problem = await stored
        # The same request again: its occurrence is there already.
        if problem is not None and not isinstance(problem, JobExists):
            raise rpc_error(problem)
        _log.info("run_now", target=names.route_key(target), by=self._authorizer.name(call), peer=call.peer.address)
        return pb.RunNowResponse(scheduled_unix_ns=now_ns).SerializeToString()


def _member(name: str, record: storage_pb2.Member, joined: int, partitions: int) -> pb.Member:
    return pb.Member(
        replica=name,
        address=record.address,
        state=storage_pb2.Member.State.Name(record.state).removeprefix("STATE_").lower(),
        version=record.version,
        started_unix_ms=record.started_unix_ms,
        joined_revision=joined,
        partitions=partitions,
    )


def _summed(histograms: Iterable[Histogram]) -> pb.Histogram:
    """All namespaces' together: they have the same bounds."""
    every = list(histograms)
    if not every:
        return pb.Histogram()
    counts = [sum(column) for column in zip(*(one.counts for one in every), strict=True)]
    return pb.Histogram(bounds_s=every[0].bounds, counts=counts, total_s=sum(one.total for one in every))


def _endpoint(status: EndpointStatus) -> pb.EtcdEndpoint:
    return pb.EtcdEndpoint(
        endpoint=status.endpoint,
        problem=status.problem,
        version=status.version,
        revision=status.revision,
        db_bytes=status.db_bytes,
        db_used_bytes=status.db_used_bytes,
        quota_bytes=status.quota_bytes,
        leader=status.leader,
        errors=status.errors,
        answer_s=status.answer_s,
    )
