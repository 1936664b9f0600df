"""The client: jobs in, triggers out, over the same connections as a sidecar's."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from google.protobuf.message import Message

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.client.errors import from_rpc
from scheduler.client.jobs import Drop, Job, Retry, When, job_of, pack, policy_message, schedule_text, when_text
from scheduler.client.triggers import Inbox, Trigger
from scheduler.core.trace_context import of_headers
from scheduler.http2.client import parse_target
from scheduler.http2.grpc import RpcError
from scheduler.identity.sources import FileSource
from scheduler.logs import get_logger
from scheduler.metrics import IdentityStatistics
from scheduler.upstream.schedulers import CALL_TIMEOUT_S, Schedulers
from scheduler.upstream.security import ClientIdentity, Security

Handler = Callable[[Trigger], Awaitable[object]]

_log = get_logger("client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Mutual TLS: files in PEM, read again when they change, and the SPIFFE identity that a scheduler must have."""

    certificate: Path | str
    key: Path | str
    ca: Path | str
    server: str = "spiffe://localhost/ns/default/dapr-scheduler"


class Client:
    """Jobs of one app. Use it by `async with`, in one task; the connections live as long as that."""

    def __init__(
        self,
        schedulers: str = "localhost:50006",
        *,
        app_id: str,
        namespace: str = "default",
        tls: Tls | None = None,
        timeout: timedelta = timedelta(seconds=CALL_TIMEOUT_S),
    ) -> None:
        """`schedulers`: one or more host:port, comma separated; the others are found through them. `timeout` is for each call. Raises ValueError."""
        self._addresses = tuple(part.strip() for part in schedulers.split(",") if part.strip())
        if not self._addresses or not app_id:
            raise ValueError("a client needs the address of a scheduler and an app_id")
        for address in self._addresses:
            parse_target(address)
        self._app_id = app_id
        self._namespace = namespace
        self._tls = tls
        self._timeout_s = timeout.total_seconds()
        self._target = pb.JobMetadata(
            app_id=app_id, namespace=namespace, target=pb.JobTargetMetadata(job=pb.TargetJob())
        )
        self._inbox = Inbox()
        self._handlers: dict[str | None, Handler] = {}
        self._current: Trigger | None = None
        self._schedulers: Schedulers | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises OSError or ValueError for certificates that cannot be used."""
        identity = None
        if self._tls is not None:
            files = (Path(self._tls.certificate), Path(self._tls.key), Path(self._tls.ca))
            source = FileSource("schedulers", *files, IdentityStatistics())
            identity = ClientIdentity(source, await source.fetch(), server=self._tls.server)
        self._schedulers = self._connect(identity.security if identity else None)
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        work = [tasks.create_task(self._schedulers.run(), name="schedulers")]
        if identity is not None:
            work.append(tasks.create_task(identity.follow(), name="certificate"))
        for task in work:
            self._stack.callback(task.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The trigger of a loop that was left has failed where an exception left it; what has not been begun goes to others."""
        if self._current is not None:
            self._current.answer(succeeded=kind is None)
        stack, self._stack = self._stack, AsyncExitStack()
        self._schedulers = self._current = None
        if kind is not None and not issubclass(kind, asyncio.CancelledError):
            # The caller's own exception stays what it is; a task group would wrap it.
            kind = error = trace = None
        await stack.__aexit__(kind, error, trace)

    def _connect(self, security: Security | None) -> Schedulers:
        return Schedulers(
            addresses=self._addresses,
            streams_per_host=1,
            receiver=self._inbox,
            rng=random.Random(int.from_bytes(os.urandom(8), "big")),
            security=security,
        )

    def _connected(self) -> Schedulers:
        if self._schedulers is None:
            raise RuntimeError("the client is used outside of its `async with`")
        return self._schedulers

    # Jobs

    async def schedule(
        self,
        name: str,
        *,
        schedule: str | timedelta | None = None,
        due_time: When | None = None,
        repeats: int | None = None,
        ttl: When | None = None,
        data: Any = None,
        overwrite: bool = False,
        failure_policy: Drop | Retry | None = None,
        trace: Mapping[str, str] | None = None,
        tracing: Literal["link", "parent", "none"] | None = None,
    ) -> None:
        """Have the job `name` kept and fired; it is safe on disk when this returns.

        `schedule`: a six-field cron line, "@daily", "@every 5m", or a timedelta. `data`: bytes, or JSON. Raises ClientError, JobExists.
        `trace`: the caller's trace context, as headers. `tracing`: how the job's triggers belong to it; by default as the scheduler is told.
        """
        job = pb.Job(repeats=repeats, tracing=tracing)
        if schedule is not None:
            job.schedule = schedule_text(schedule)
        if due_time is not None:
            job.due_time = when_text(due_time)
        if ttl is not None:
            job.ttl = when_text(ttl)
        if data is not None:
            job.data.CopyFrom(pack(data))
        if failure_policy is not None:
            job.failure_policy.CopyFrom(policy_message(failure_policy))
        request = pb.ScheduleJobRequest(name=name, job=job, metadata=self._target, overwrite=overwrite)
        if trace is not None and (context := of_headers(trace)) is not None:
            request.trace_parent, request.trace_state = context
        await self._call("ScheduleJob", request)

    async def get(self, name: str) -> Job:
        """Raises JobNotFound, ClientError."""
        answer = await self._call("GetJob", pb.GetJobRequest(name=name, metadata=self._target))
        return job_of(name, pb.GetJobResponse.FromString(answer).job)

    async def list(self) -> list[Job]:
        """All jobs of the app. Raises ClientError."""
        answer = await self._call("ListJobs", pb.ListJobsRequest(metadata=self._target))
        return [job_of(one.name, one.job) for one in pb.ListJobsResponse.FromString(answer).jobs]

    async def delete(self, name: str) -> None:
        """One that is not there is no error. Raises ClientError."""
        await self._call("DeleteJob", pb.DeleteJobRequest(name=name, metadata=self._target))

    async def delete_by_prefix(self, prefix: str) -> None:
        """Delete all jobs of the app whose names begin so; with "" all. Raises ClientError."""
        await self._call("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(name_prefix=prefix, metadata=self._target))

    async def _call(self, method: str, request: Message) -> bytes:
        try:
            return await self._connected().call(method, request, wait_for_ready=True, timeout_s=self._timeout_s)
        except RpcError as error:
            raise from_rpc(error) from error

    # Triggers

    async def triggers(self) -> AsyncIterator[Trigger]:
        """Triggers as they come, one after the other: each has succeeded when the loop asks for the next, unless it was told to fail."""
        self._watch()
        while True:
            self._current = await self._inbox.get()
            yield self._current
            self._current.succeed()

    def job(self, name: str | None = None) -> Callable[[Handler], Handler]:
        """Decorates the coroutine function that does the job `name`; without a name, all jobs that have none of their own."""

        def remember(handler: Handler) -> Handler:
            self._handlers[name] = handler
            return handler

        return remember

    async def run(self, *, concurrency: int = 100) -> None:
        """Have each trigger handled by its job's handler until cancelled, so many at once. It succeeds when the handler returns, and fails when that raises.

        Inside of `async with` or, for a program that does nothing else, alone.
        """
        if self._schedulers is None:
            async with self:
                await self.run(concurrency=concurrency)
            return
        self._watch()
        places = asyncio.Semaphore(concurrency)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await places.acquire()
                trigger = await self._inbox.get()
                tasks.create_task(self._handle(trigger, places), name=f"job {trigger.name}")

    async def _handle(self, trigger: Trigger, places: asyncio.Semaphore) -> None:
        try:
            handler = self._handlers.get(trigger.name) or self._handlers.get(None)
            if handler is None:
                _log.warning("job_without_handler", job=trigger.name)
                trigger.fail()
                return
            await handler(trigger)
            trigger.succeed()
        except Exception as error:
            _log.exception("handler_failed", job=trigger.name, error=repr(error))
            trigger.fail()
        finally:
            places.release()

    def _watch(self) -> None:
        initial = pb.WatchJobsRequestInitial(
            app_id=self._app_id, namespace=self._namespace, accept_job_types=[pb.JOB_TARGET_TYPE_JOB]
        )
        self._connected().watch(pb.WatchJobsRequest(initial=initial).SerializeToString())
