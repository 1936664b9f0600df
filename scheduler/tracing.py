"""OpenTelemetry spans of API calls and of triggers, for a replica that is told to trace (docs/howto/tracing.md).

Nothing of this is in the way of a replica that is not: methods and hub are other objects then. Exporter, sampler and resource follow the standard OTEL_*
variables. A bound on spans per second keeps the hot path's cost in bounds, whatever the sampler says.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

from google.protobuf.message import DecodeError
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scheduler import __version__
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core import names
from scheduler.core.lifecycle import Job
from scheduler.core.trace_context import TraceContext
from scheduler.delivery.hub import Hub
from scheduler.delivery.routes import Stream
from scheduler.http2.call import Call, Method, Unary
from scheduler.http2.grpc import RpcError, Status
from scheduler.protobuf import delimited
from scheduler.rpc.jobs import SERVICE

# Triggers whose answers may take hours: more spans than this are not kept open.
OPEN_MAX = 10_000
# How long a process that stops waits for the last spans to leave.
_FLUSH_S = 2.0
# Tags of length-delimited fields: ScheduleJobRequest.trace_parent and trace_state, WatchJobsResponse.trace_parent and trace_state.
_REQUEST_TAGS = (b"\x8a\xf1\x04", b"\x92\xf1\x04")
_TRIGGER_TAGS = (b"\x92\xf1\x04", b"\x9a\xf1\x04")

_PROPAGATOR = TraceContextTextMapPropagator()


class _Allowance:
    """At most so many spans begin in a second."""

    def __init__(self, per_second: int) -> None:
        self._per_second = self._left = per_second
        self._second = 0

    def take(self, now_ns: int) -> bool:
        """Whether one more may begin."""
        second = now_ns // 1_000_000_000
        if second != self._second:
            self._second, self._left = second, self._per_second
        self._left -= 1
        return self._left >= 0


def _fields(tags: tuple[bytes, bytes], context: TraceContext) -> bytes:
    """Appended to a message these replace what it had; an empty state, too, replaces another trace's."""
    return delimited(tags[0], context.parent.encode()) + delimited(tags[1], context.state.encode())


def _context_of(span: Span) -> TraceContext:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return TraceContext(carrier["traceparent"], carrier.get("tracestate", ""))


def _given(request: bytes) -> dict[str, str]:
    """The context that a sidecar gives in the request's own fields."""
    try:
        message = pb.ScheduleJobRequest.FromString(request)
    except DecodeError:
        return {}
    return {"traceparent": message.trace_parent, "tracestate": message.trace_state}


class Tracing:
    """One replica's tracer."""

    def __init__(
        self,
        *,
        replica: str,
        propagation: str,
        spans_per_second: int,
        wall_ns: Callable[[], int],
        provider: TracerProvider,
    ) -> None:
        """`propagation`: a trigger is a trace of its own with a link to what scheduled the job (link), or part of that trace (parent)."""
        self._replica = replica
        self._propagation = propagation
        self._per_second = spans_per_second
        self._wall_ns = wall_ns
        self._provider = provider
        self._tracer = provider.get_tracer("scheduler", __version__)
        self._calls = _Allowance(spans_per_second)
        self.triggers = _Allowance(spans_per_second)

    async def close(self) -> None:
        """Send what is left; bounded, since the collector may not be there."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + _FLUSH_S
        while thread.is_alive() and loop.time() < end_s:  # noqa: ASYNC110 - bounded, once per life
            await asyncio.sleep(0.02)

    def methods(self, methods: Mapping[str, Method]) -> dict[str, Method]:
        """The same methods, with a span for each call of the scheduler's unary ones. A stream's life is no span."""
        return {
            path: self._traced(path, method)
            if isinstance(method, Unary) and path.startswith(f"/{SERVICE}/")
            else method
            for path, method in methods.items()
        }

    def _traced(self, path: str, method: Unary) -> Unary:
        service, _, name = path[1:].partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

        def handler(request: bytes, call: Call) -> None:
            headers = dict(call.metadata)
            if not self._calls.take(self._wall_ns()):
                method.handler(request, call)
                return
            if name == "ScheduleJob" and "traceparent" not in headers:
                headers |= _given(request)
            caller = _PROPAGATOR.extract(headers, Context())
            span = self._tracer.start_span(path[1:], caller, SpanKind.SERVER, attributes)
            if name == "ScheduleJob":
                # The later field holds: what the caller gave gives way to its span's child.
                request += _fields(_REQUEST_TAGS, _context_of(span))
            traced = _TracedCall(call, span)
            try:
                method.handler(request, cast("Call", traced))
            except RpcError as error:
                traced.ended(error.status, error.message)
                raise
            except Exception:
                traced.ended(Status.INTERNAL)
                raise

        return Unary(handler)

    def begin_trigger(self, job: Job, now_ns: int) -> Span | None:
        """The span of one delivery; None: it has none."""
        stored = pb.WatchJobsResponse.FromString(job.trigger)
        carrier = {"traceparent": stored.trace_parent, "tracestate": stored.trace_state} if stored.trace_parent else {}
        scheduled = _PROPAGATOR.extract(carrier, Context())
        origin = trace.get_current_span(scheduled).get_span_context()
        follows = self._propagation == "parent"
        namespace = names.namespace_of(job.target.key)
        span = self._tracer.start_span(
            f"trigger {namespace}",
            scheduled if follows else Context(),
            SpanKind.PRODUCER,
            {
                "messaging.system": "scheduler",
                "messaging.operation.type": "send",
                "messaging.destination.name": job.target.key.replace("||", "/"),
                "scheduler.job": stored.name,
                "scheduler.replica": self._replica,
                "scheduler.partition": job.partition.number,
                "scheduler.generation": f"{job.generation:016x}",
                "scheduler.index": job.count,
                "scheduler.attempt": job.attempts,
                "scheduler.due_unix_ns": job.planned_ns,
                "scheduler.lateness_ms": max(0, now_ns - job.fire_ns) / 1e6,
            },
            [Link(origin)] if origin.is_valid and not follows else None,
            start_time=now_ns,
        )
        return span if span.is_recording() else None

    def hub(self, **arguments: Any) -> Hub:
        """A hub whose triggers have spans."""
        return _TracedHub(self, **arguments)


class _TracedCall:
    """A call that tells its span how it ends."""

    def __init__(self, call: Call, span: Span) -> None:
        self._call = call
        self._span = span
        self._on_end: Callable[[], None] | None = None
        call.on_end = self._abandoned

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    @property
    def on_end(self) -> Callable[[], None] | None:
        """See Call."""
        return self._on_end

    @on_end.setter
    def on_end(self, callback: Callable[[], None]) -> None:
        self._on_end = callback

    def _abandoned(self) -> None:
        self.ended(Status.CANCELLED)
        if self._on_end is not None:
            self._on_end()

    def reply(self, message: bytes) -> None:
        """See Call."""
        self.ended(Status.OK)
        self._call.reply(message)

    def fail(self, status: Status, message: str = "", *, details: bytes = b"") -> None:
        """See Call."""
        self.ended(status, message)
        self._call.fail(status, message, details=details)

    def ended(self, status: Status, text: str = "") -> None:
        """Once: what comes later changes nothing."""
        self._span.set_attribute("rpc.grpc.status_code", int(status))
        if status in {Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.INTERNAL, Status.UNAVAILABLE}:
            self._span.set_status(StatusCode.ERROR, text)
        self._span.end()


class _TracedHub(Hub):
    """Begins a trigger's span when it is sent, and ends it with its answer."""

    def __init__(self, tracing: Tracing, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._tracing = tracing
        self._open: dict[Stream, dict[int, Span]] = {}
        self._open_count = 0

    def _send(self, stream: Stream, job: Job, now_ns: int) -> None:
        span = None
        if self._open_count < OPEN_MAX and self._tracing.triggers.take(now_ns):
            span = self._tracing.begin_trigger(job, now_ns)
        if span is None:
            super()._send(stream, job, now_ns)
            return
        stored = job.trigger
        job.trigger = stored + _fields(_TRIGGER_TAGS, _context_of(span))
        super()._send(stream, job, now_ns)
        job.trigger = stored
        self._open.setdefault(stream, {})[stream.last_id] = span
        self._open_count += 1

    def acknowledge(self, stream: Stream, delivery_id: int, succeeded: bool) -> bool:  # noqa: FBT001 - as in the base class
        """See Hub."""
        span = self._open.get(stream, {}).pop(delivery_id, None)
        if span is not None:
            self._open_count -= 1
            if not succeeded:
                span.set_status(StatusCode.ERROR, "the app has not taken it")
            span.end()
        return super().acknowledge(stream, delivery_id, succeeded)

    def detach(self, stream: Stream) -> None:
        """See Hub."""
        for span in self._open.pop(stream, {}).values():
            self._open_count -= 1
            span.set_status(StatusCode.ERROR, "its stream has ended")
            span.end()
        super().detach(stream)


def start(*, replica: str, propagation: str, spans_per_second: int, wall_ns: Callable[[], int]) -> Tracing:
    """A tracer that exports by OTLP over gRPC, as the OTEL_* variables say; by default to localhost:4317."""
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "scheduler"}
    resource = Resource.create({SERVICE_INSTANCE_ID: replica, SERVICE_VERSION: __version__, **named})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(
        replica=replica, propagation=propagation, spans_per_second=spans_per_second, wall_ns=wall_ns, provider=provider
    )
