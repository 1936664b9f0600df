"""OpenTelemetry as replicas and sidecars have it in common: the exporter, a bound on spans, contexts on the wire, spans of gRPC calls."""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scheduler import __version__
from scheduler.core.trace_context import TraceContext
from scheduler.http2.call import Call, Method, Unary
from scheduler.http2.grpc import RpcError, Status
from scheduler.logs import add_to_lines

# How long a process that stops waits for the last spans to leave.
_FLUSH_S = 2.0

_PROPAGATOR = TraceContextTextMapPropagator()


class Allowance:
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


def context_of(span: Span) -> TraceContext:
    """What is sent on of a span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return TraceContext(carrier["traceparent"], carrier.get("tracestate", ""))


def extracted(headers: Mapping[str, str]) -> Context:
    """The context that headers or metadata give; an empty one where that is none."""
    return _PROPAGATOR.extract(headers, Context())


def sampled_trace(span: Span) -> str:
    """The id of the trace of a span that is sampled; empty where it is not."""
    context = span.get_span_context()
    return format_trace_id(context.trace_id) if context.trace_flags.sampled else ""


def _current() -> dict[str, str]:
    """Of the span that is current and open, for log lines."""
    span = trace.get_current_span()
    if not span.is_recording():
        return {}
    context = span.get_span_context()
    return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}


def exporting(service: str, instance: str) -> TracerProvider:
    """Exports by OTLP over gRPC, as the OTEL_* variables say; by default to localhost:4317. They may also rename the service."""
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: service}
    resource = Resource.create({SERVICE_INSTANCE_ID: instance, SERVICE_VERSION: __version__, **named})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    add_to_lines(_current)
    return provider


class Spans:
    """One process's tracer; replicas and sidecars add to it what they alone do."""

    def __init__(self, provider: TracerProvider, *, spans_per_second: int, wall_ns: Callable[[], int]) -> None:
        """The bound is one for calls, and another one for triggers."""
        self._provider = provider
        self.wall_ns = wall_ns
        self.tracer = provider.get_tracer("scheduler", __version__)
        self.calls = Allowance(spans_per_second)
        self.triggers = Allowance(spans_per_second)

    async def close(self) -> None:
        """Send what is left; bounded, since the collector may not be there."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + _FLUSH_S
        while thread.is_alive() and loop.time() < end_s:  # noqa: ASYNC110 - bounded, once per life
            await asyncio.sleep(0.02)

    def traced(self, methods: Mapping[str, Method], service: str) -> dict[str, Method]:
        """The same methods, with a span for each call of the service's unary ones. A stream's life is no span."""
        return {
            path: self._with_span(path, method)
            if isinstance(method, Unary) and path.startswith(f"/{service}/")
            else method
            for path, method in methods.items()
        }

    def caller_of(self, name: str, request: bytes, headers: dict[str, str]) -> dict[str, str]:  # noqa: ARG002 - for others
        """The headers with the context of whoever calls the method `name`."""
        return headers

    def handed_on(self, name: str, request: bytes, span: Span) -> bytes:  # noqa: ARG002 - for others
        """The request as the method gets it."""
        return request

    def _with_span(self, path: str, method: Unary) -> Unary:
        service, _, name = path[1:].partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

        def handler(request: bytes, call: Call) -> None:
            if not self.calls.take(self.wall_ns()):
                method.handler(request, call)
                return
            caller = extracted(self.caller_of(name, request, dict(call.metadata)))
            span = self.tracer.start_span(path[1:], caller, SpanKind.SERVER, attributes)
            traced = _TracedCall(call, span)
            try:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    method.handler(self.handed_on(name, request, span), cast("Call", traced))
            except RpcError as error:
                traced.ended(error.status, error.message)
                raise
            except Exception:
                traced.ended(Status.INTERNAL)
                raise

        return Unary(handler)


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
