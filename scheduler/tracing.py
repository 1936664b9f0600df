"""Spans of a replica's API calls and of its triggers, where it is told to trace (docs/howto/tracing.md).

Nothing of this is in the way of a replica that is not: methods and hub are other objects then. Exporter, sampler and resource follow the standard OTEL_*
variables. A bound on spans per second keeps the hot path's cost in bounds, whatever the sampler says.
"""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core import names
from scheduler.core.lifecycle import Job
from scheduler.core.trace_context import TraceContext
from scheduler.delivery.hub import Hub
from scheduler.delivery.routes import Stream
from scheduler.exposition import Histogram
from scheduler.http2.call import Method
from scheduler.protobuf import delimited
from scheduler.rpc.jobs import SERVICE
from scheduler.spans import Spans, context_of, exporting, extracted, sampled_trace

# Triggers whose answers may take hours: more spans than this are not kept open.
OPEN_MAX = 10_000
# Tags of length-delimited fields: ScheduleJobRequest.trace_parent and trace_state, WatchJobsResponse.trace_parent and trace_state.
_REQUEST_TAGS = (b"\x8a\xf1\x04", b"\x92\xf1\x04")
_TRIGGER_TAGS = (b"\x92\xf1\x04", b"\x9a\xf1\x04")
# WatchJobsResponse.tracing: the context is the trigger's own, so a receiver's span is its child.
_CHILD = delimited(b"\xa2\xf1\x04", b"parent")


def _fields(tags: tuple[bytes, bytes], context: TraceContext) -> bytes:
    """Appended to a message these replace what it had; an empty state, too, replaces another trace's."""
    return delimited(tags[0], context.parent.encode()) + delimited(tags[1], context.state.encode())


def _given(request: bytes) -> dict[str, str]:
    """The context that a sidecar gives in the request's own fields."""
    try:
        message = pb.ScheduleJobRequest.FromString(request)
    except DecodeError:
        return {}
    return {"traceparent": message.trace_parent, "tracestate": message.trace_state}


class Tracing(Spans):
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
        """`propagation` (trace_context.PROPAGATIONS) is for jobs that do not say how their triggers belong to the trace of what scheduled them."""
        super().__init__(provider, spans_per_second=spans_per_second, wall_ns=wall_ns)
        self._replica = replica
        self._propagation = propagation
        # Of (jobs, actors): the replica's, where it keeps them; they show the traces of what they counted.
        self.acknowledgement_seconds: tuple[Histogram, Histogram] | None = None

    def methods(self, methods: Mapping[str, Method]) -> dict[str, Method]:
        """The replica's methods, with spans for the scheduler's."""
        return self.traced(methods, SERVICE)

    def caller_of(self, name: str, request: bytes, headers: dict[str, str]) -> dict[str, str]:
        """See Spans: a sidecar without spans of its own gives its caller's context in the request."""
        return headers | _given(request) if name == "ScheduleJob" and "traceparent" not in headers else headers

    def handed_on(self, name: str, request: bytes, span: Span) -> bytes:
        """See Spans. The later field holds: what the caller gave gives way to its span's child."""
        return request + _fields(_REQUEST_TAGS, context_of(span)) if name == "ScheduleJob" else request

    def begin_trigger(self, job: Job, now_ns: int) -> Span:
        """The span of one delivery; one that the sampler leaves out records nothing."""
        stored = pb.WatchJobsResponse.FromString(job.trigger)
        carrier = {"traceparent": stored.trace_parent, "tracestate": stored.trace_state} if stored.trace_parent else {}
        scheduled = extracted(carrier)
        origin = trace.get_current_span(scheduled).get_span_context()
        choice = stored.tracing or self._propagation
        namespace = names.namespace_of(job.target.key)
        return self.tracer.start_span(
            f"trigger {namespace}",
            scheduled if choice == "parent" else Context(),
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
            [Link(origin)] if origin.is_valid and choice == "link" else None,
            start_time=now_ns,
        )

    def hub(self, **arguments: Any) -> Hub:
        """A hub whose triggers have spans."""
        return _TracedHub(self, **arguments)


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
        job.trigger = stored + _fields(_TRIGGER_TAGS, context_of(span)) + _CHILD
        super()._send(stream, job, now_ns)
        job.trigger = stored
        if (trace_id := sampled_trace(span)) and not job.attempts:
            job.target.lateness.exemplify((now_ns - job.fire_ns) * 1e-9, trace_id, now_ns * 1e-9)
        if span.is_recording():
            self._open.setdefault(stream, {})[stream.last_id] = span
            self._open_count += 1

    def acknowledge(self, stream: Stream, delivery_id: int, succeeded: bool) -> bool:  # noqa: FBT001 - as in the base class
        """See Hub."""
        span = self._open.get(stream, {}).pop(delivery_id, None)
        if span is not None:
            self._open_count -= 1
            self._exemplify(span, stream.in_flight.get(delivery_id))
            if not succeeded:
                span.set_status(StatusCode.ERROR, "the app has not taken it")
            span.end()
        return super().acknowledge(stream, delivery_id, succeeded)

    def _exemplify(self, span: Span, job: Job | None) -> None:
        histograms = self._tracing.acknowledgement_seconds
        if job is not None and histograms is not None and (trace_id := sampled_trace(span)):
            now_ns = self._tracing.wall_ns()
            histograms[job.target.is_actor].exemplify((now_ns - job.sent_ns) * 1e-9, trace_id, now_ns * 1e-9)

    def detach(self, stream: Stream) -> None:
        """See Hub."""
        for span in self._open.pop(stream, {}).values():
            self._open_count -= 1
            span.set_status(StatusCode.ERROR, "its stream has ended")
            span.end()
        super().detach(stream)


def start(*, replica: str, propagation: str, spans_per_second: int, wall_ns: Callable[[], int]) -> Tracing:
    """A tracer that exports as the OTEL_* variables say."""
    return Tracing(
        replica=replica,
        propagation=propagation,
        spans_per_second=spans_per_second,
        wall_ns=wall_ns,
        provider=exporting("scheduler", replica),
    )
