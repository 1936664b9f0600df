"""The six unary job RPCs (scheduler-service.md 1.6): translate, check, hand to the store, answer from its callback."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from scheduler._pb.dapr.proto.common.v1.common_pb2 import JobFailurePolicy
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.aio.clock import Clock
from scheduler.core import names
from scheduler.core.errors import InvalidJob, SchedulerError
from scheduler.core.schedule import resolve
from scheduler.core.trace_context import PROPAGATIONS, carried
from scheduler.http2.call import Call, Method, Unary, coroutine
from scheduler.http2.grpc import RpcError, Status
from scheduler.metrics import RpcStatistics
from scheduler.rpc.authz import Authorizer
from scheduler.rpc.status import rpc_error
from scheduler.store.codec import CorruptRecord, set_instant
from scheduler.store.errors import JobExists, StoreError
from scheduler.store.jobs import LIST_SLICE, JobStore

M = TypeVar("M", bound=Message)

SERVICE = "dapr.proto.scheduler.v1.Scheduler"
# However long a caller would wait: no call outlives this.
DEADLINE_MAX_S = 30.0
# What we take of a caller's time, so that it hears what is wrong instead of nothing until its deadline.
_OWN_SHARE = 0.9

LISTS_AT_ONCE = 8

_DEFAULT_POLICY = JobFailurePolicy()
_DEFAULT_POLICY.constant.interval.seconds = 1
_DEFAULT_POLICY.constant.max_retries = 3
_DEFAULT_POLICY_BYTES = _DEFAULT_POLICY.SerializeToString()


def parse(kind: type[M], request: bytes) -> M:
    """A request. Raises RpcError INVALID_ARGUMENT for bytes that are none."""
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise RpcError(Status.INVALID_ARGUMENT, f"the request is no {kind.DESCRIPTOR.full_name}: {error}") from error


def record_of(request: pb.ScheduleJobRequest, now_ns: int) -> JobRecord:
    """The record of a checked request: times resolved, the default policy filled in. Raises InvalidJob."""
    job = request.job
    schedule = job.schedule if job.HasField("schedule") else None
    repeats = job.repeats if job.HasField("repeats") else None
    due_time = job.due_time if job.HasField("due_time") else None
    ttl = job.ttl if job.HasField("ttl") else None
    times = resolve(schedule=schedule, repeats=repeats, due_time=due_time, ttl=ttl, now_ns=now_ns)
    trigger = pb.WatchJobsResponse(name=request.name, metadata=request.metadata)
    if job.HasField("data"):
        trigger.data.CopyFrom(job.data)
    if job.tracing:
        if job.tracing not in PROPAGATIONS:
            raise InvalidJob("tracing", f"tracing is {job.tracing[:40]!r}, allowed are link, parent and none")
        trigger.tracing = job.tracing
    if (
        request.trace_parent
        and job.tracing != "none"
        and (context := carried(request.trace_parent, request.trace_state)) is not None
    ):
        trigger.trace_parent, trigger.trace_state = context
    policy = _DEFAULT_POLICY_BYTES
    if job.HasField("failure_policy") and job.failure_policy.WhichOneof("policy") is not None:
        policy = job.failure_policy.SerializeToString()
    record = JobRecord(trigger=trigger.SerializeToString(), failure_policy=policy)
    if schedule is not None:
        record.schedule = schedule
    if repeats is not None:
        record.repeats = repeats
    if due_time is not None:
        record.due_time = due_time
    if ttl is not None:
        record.ttl = ttl
    set_instant(record.created, now_ns)
    if times.first_ns is not None:
        set_instant(record.first, times.first_ns)
    if times.expires_ns is not None:
        set_instant(record.expires, times.expires_ns)
    return record


def job_of(record: JobRecord) -> tuple[pb.WatchJobsResponse, pb.Job]:
    """What was asked for: name, data and metadata, and the job as clients see it. Raises CorruptRecord."""
    try:
        trigger = pb.WatchJobsResponse.FromString(record.trigger)
        policy = JobFailurePolicy.FromString(record.failure_policy)
    except DecodeError as error:
        raise CorruptRecord(f"the record's trigger does not parse: {error}") from error
    job = pb.Job()
    for field in ("schedule", "repeats", "due_time", "ttl"):
        if record.HasField(field):
            setattr(job, field, getattr(record, field))
    if trigger.HasField("data"):
        job.data.CopyFrom(trigger.data)
    job.failure_policy.CopyFrom(policy)
    job.tracing = trigger.tracing
    return trigger, job


class Jobs:
    """The servicer."""

    def __init__(
        self,
        *,
        store: JobStore,
        authorizer: Authorizer,
        clock: Clock,
        statistics: RpcStatistics,
        leaving: Callable[[], bool],
    ) -> None:
        """While `leaving()` calls are answered CANCELLED, which sidecars retry on the next host."""
        self._store = store
        self._authorizer = authorizer
        self._clock = clock
        self._statistics = statistics
        self._leaving = leaving
        self._lists = asyncio.Semaphore(LISTS_AT_ONCE)

    def methods(self) -> dict[str, Method]:
        """By full path."""
        return {
            f"/{SERVICE}/ScheduleJob": Unary(self._schedule),
            f"/{SERVICE}/GetJob": coroutine(self._get),
            f"/{SERVICE}/DeleteJob": Unary(self._delete),
            f"/{SERVICE}/ListJobs": coroutine(self._list),
            f"/{SERVICE}/DeleteByMetadata": coroutine(self._delete_by_metadata),
            f"/{SERVICE}/DeleteByNamePrefix": coroutine(self._delete_by_name_prefix),
        }

    def _check_serving(self) -> None:
        if self._leaving():
            raise RpcError(Status.CANCELLED, "the scheduler is shutting down")

    def _timeout_s(self, call: Call) -> float:
        if call.deadline is None:
            return DEADLINE_MAX_S
        return max(0.001, min(DEADLINE_MAX_S, (call.deadline - call.shell.loop.time()) * _OWN_SHARE))

    def _schedule(self, request: bytes, call: Call) -> None:
        self._check_serving()
        message = parse(pb.ScheduleJobRequest, request)
        target = self._authorizer.target(call, message.metadata)
        statistics, is_actor, name = self._statistics, target.is_actor, message.name
        try:
            if not message.HasField("job"):
                raise RpcError(Status.INVALID_ARGUMENT, "job is missing in request")  # noqa: TRY301 - counted like the others
            names.check_name(names.reference_name(target, name))
            record = record_of(message, self._clock.wall_ns())
        except (SchedulerError, RpcError) as error:
            statistics.created_failed[is_actor] += 1
            raise error if isinstance(error, RpcError) else rpc_error(error) from error

        def done(error: StoreError | None) -> None:
            if error is None:
                statistics.created[is_actor] += 1
                call.reply(b"")
                return
            statistics.created_failed[is_actor] += 1
            if isinstance(error, JobExists):
                error = JobExists(f"job already exists: '{names.reference_name(target, name)}'")
            answer = rpc_error(error)
            call.fail(answer.status, answer.message)

        self._store.put(names.storage_key(target, name), record, overwrite=message.overwrite, done=done)

    def _delete(self, request: bytes, call: Call) -> None:
        self._check_serving()
        message = parse(pb.DeleteJobRequest, request)
        target = self._authorizer.target(call, message.metadata)
        self._check_name(target, message.name)

        def done(error: StoreError | None) -> None:
            if error is None:
                self._statistics.deleted[target.is_actor] += 1
                call.reply(b"")
            else:
                answer = rpc_error(error)
                call.fail(answer.status, answer.message)

        self._store.delete(names.storage_key(target, message.name), done=done)

    def _check_name(self, target: names.Target, name: str) -> None:
        try:
            names.check_name(names.reference_name(target, name))
        except SchedulerError as error:
            raise rpc_error(error) from error

    def _check_prefix(self, target: names.Target) -> None:
        """Bulk deletes hold the rules of names for their prefix and one letter (1.4); an empty actor id leaves no segment."""
        if target.is_actor and not target.actor_id:
            target = names.app_target(target.namespace, target.owner)._replace(kind=target.kind)
        self._check_name(target, "a")

    async def _get(self, request: bytes, call: Call) -> bytes:
        self._check_serving()
        message = parse(pb.GetJobRequest, request)
        target = self._authorizer.target(call, message.metadata)
        self._check_name(target, message.name)
        try:
            record = await self._store.get(names.storage_key(target, message.name), timeout_s=self._timeout_s(call))
            if record is None:
                raise RpcError(Status.NOT_FOUND, f"job not found: {message.name}")
            return pb.GetJobResponse(job=job_of(record)[1]).SerializeToString()
        except SchedulerError as error:
            raise rpc_error(error) from error

    async def _list(self, request: bytes, call: Call) -> bytes:
        self._check_serving()
        message = parse(pb.ListJobsRequest, request)
        target = self._authorizer.target(call, message.metadata)
        if not names.fits(target):
            return b""
        # Each holds its whole answer in memory, several times over: a small request must not become many of them at once.
        try:
            async with asyncio.timeout(self._timeout_s(call)):
                await self._lists.acquire()
        except TimeoutError as error:
            text = f"{LISTS_AT_ONCE} other lists are being read: try again later"
            raise RpcError(Status.RESOURCE_EXHAUSTED, text) from error
        try:
            return await self._listed(target, call)
        finally:
            self._lists.release()

    async def _listed(self, target: names.Target, call: Call) -> bytes:
        try:
            found = await self._store.list(names.storage_prefix(target), timeout_s=self._timeout_s(call))
        except SchedulerError as error:
            raise rpc_error(error) from error
        answer = pb.ListJobsResponse()
        for taken, (key, record) in enumerate(found, 1):
            if taken % LIST_SLICE == 0:
                await asyncio.sleep(0)
            if names.is_run_now(key):
                continue
            try:
                trigger, job = job_of(record)
            except CorruptRecord:
                # One odd record must not hide the others (W48).
                self._store.corrupt_records += 1
                continue
            answer.jobs.add(name=trigger.name, metadata=trigger.metadata, job=job)
        return answer.SerializeToString()

    def _bulk_target(self, call: Call, metadata: pb.JobMetadata) -> names.Target:
        try:
            return self._authorizer.target(call, metadata)
        except RpcError as error:
            text = f"failed to parse metadata: rpc error: code = {error.status.camel_name} desc = {error.message}"
            if error.status is Status.UNKNOWN:
                text = f"failed to parse metadata: {error.message}"
            raise RpcError(error.status, text) from error

    async def _delete_prefix(self, call: Call, prefix: str) -> bytes:
        try:
            await self._store.delete_prefix(prefix, timeout_s=self._timeout_s(call))
        except SchedulerError as error:
            raise rpc_error(error) from error
        self._statistics.bulk_deleted += 1
        return b""

    async def _delete_by_metadata(self, request: bytes, call: Call) -> bytes:
        self._check_serving()
        message = parse(pb.DeleteByMetadataRequest, request)
        target = self._bulk_target(call, message.metadata)
        self._check_prefix(target)
        prefix = names.storage_prefix(target)
        if message.id_prefix_match and target.is_actor:
            # Ids that begin with the given one; a job target's prefix never reaches into another app (W47).
            prefix = names.actor_id_prefix(target)
        return await self._delete_prefix(call, prefix)

    async def _delete_by_name_prefix(self, request: bytes, call: Call) -> bytes:
        self._check_serving()
        message = parse(pb.DeleteByNamePrefixRequest, request)
        target = self._bulk_target(call, message.metadata)
        self._check_prefix(target)
        if not names.fits(target, message.name_prefix):
            self._statistics.bulk_deleted += 1
            return b""
        return await self._delete_prefix(call, names.storage_prefix(target) + message.name_prefix)
