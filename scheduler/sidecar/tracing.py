"""Spans of a sidecar, where it is told to trace (docs/howto/tracing.md): of the Jobs API's calls, of its calls to schedulers, of what the app is told.

Each stands around what a sidecar without tracing has alone.
"""

import asyncio
from collections.abc import Awaitable, Callable

from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2.grpc import RpcError
from scheduler.sidecar.channels import AppChannel, Verdict
from scheduler.sidecar.http_api import JOB_PATH, Answer, Request
from scheduler.spans import Spans, context_of, exporting, extracted
from scheduler.upstream.schedulers import SERVICE, Schedulers


class Tracing(Spans):
    """One sidecar's tracer."""

    def __init__(
        self, provider: TracerProvider, *, app: str, spans_per_second: int, wall_ns: Callable[[], int]
    ) -> None:
        """`app` is shown as the destination of triggers: app/NAMESPACE/APP-ID."""
        super().__init__(provider, spans_per_second=spans_per_second, wall_ns=wall_ns)
        self.app = app

    def http(self, answer: Callable[[Request], Awaitable[Answer]]) -> Callable[[Request], Awaitable[Answer]]:
        """The same answers, with a span for each call about a job."""

        async def traced(request: Request) -> Answer:
            path = request.target.partition("?")[0]
            if request.public or JOB_PATH.fullmatch(path) is None or not self.calls.take(self.wall_ns()):
                return await answer(request)
            attributes = {"http.request.method": request.method, "http.route": "/v1.0/jobs/{name}", "url.path": path}
            name = f"{request.method} /v1.0/jobs/{{name}}"
            span = self.tracer.start_span(name, extracted(request.headers), SpanKind.SERVER, attributes)
            with trace.use_span(span, end_on_exit=True):
                given = await answer(request)
                span.set_attribute("http.response.status_code", given.status)
                if given.status >= 500:
                    span.set_status(StatusCode.ERROR)
                return given

        return traced

    def schedulers(self, schedulers: Schedulers) -> "TracedSchedulers":
        """Calls with spans."""
        return TracedSchedulers(self, schedulers)

    def channel(self, app: AppChannel) -> AppChannel:
        """Deliveries with spans."""
        return _TracedApp(self, app)


class TracedSchedulers:
    """Calls a scheduler under a span, which the scheduler's own is a child of."""

    def __init__(self, tracing: Tracing, schedulers: Schedulers) -> None:
        """Made by `Tracing.schedulers`."""
        self._tracing = tracing
        self._schedulers = schedulers

    async def call(self, method: str, request: Message, *, wait_for_ready: bool) -> bytes:
        """See Schedulers."""
        if not trace.get_current_span().get_span_context().is_valid:
            # The call that this is made for has none, either.
            return await self._schedulers.call(method, request, wait_for_ready=wait_for_ready)
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE[1:], "rpc.method": method}
        with self._tracing.tracer.start_as_current_span(
            f"{SERVICE[1:]}/{method}", kind=SpanKind.CLIENT, attributes=attributes, record_exception=False
        ) as span:
            context = context_of(span)
            metadata = [("traceparent", context.parent)]
            if context.state:
                metadata.append(("tracestate", context.state))
            if isinstance(request, pb.ScheduleJobRequest):
                # A scheduler without spans keeps this.
                request.trace_parent, request.trace_state = context
            try:
                answer = await self._schedulers.call(
                    method, request, wait_for_ready=wait_for_ready, metadata=tuple(metadata)
                )
            except RpcError as error:
                span.set_attribute("rpc.grpc.status_code", int(error.status))
                raise
            span.set_attribute("rpc.grpc.status_code", 0)
            return answer


class _TracedApp:
    """Tells the app of each trigger under a span whose context it is told."""

    def __init__(self, tracing: Tracing, app: AppChannel) -> None:
        self._tracing = tracing
        self._app = app
        self.probe, self.close = app.probe, app.close

    def _begin(self, trigger: pb.WatchJobsResponse) -> Span:
        carrier = {"traceparent": trigger.trace_parent, "tracestate": trigger.trace_state}
        given = extracted(carrier if trigger.trace_parent else {})
        origin = trace.get_current_span(given).get_span_context()
        links = [Link(origin)] if origin.is_valid and trigger.tracing in {"", "link"} else None
        attributes: dict[str, str | int] = {
            "messaging.system": "scheduler",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._tracing.app,
            "scheduler.job": trigger.name,
        }
        if trigger.HasField("occurrence"):
            attributes |= {
                "scheduler.replica": trigger.occurrence.replica,
                "scheduler.generation": f"{trigger.occurrence.generation:016x}",
                "scheduler.index": trigger.occurrence.index,
                "scheduler.attempt": trigger.occurrence.attempt,
            }
        parent = given if trigger.tracing == "parent" else Context()
        return self._tracing.tracer.start_span("process trigger", parent, SpanKind.CONSUMER, attributes, links)

    async def deliver(self, trigger: pb.WatchJobsResponse) -> Verdict:
        """See AppChannel."""
        if not self._tracing.triggers.take(self._tracing.wall_ns()):
            return await self._app.deliver(trigger)
        span = self._begin(trigger)
        trigger.trace_parent, trigger.trace_state = context_of(span)
        with trace.use_span(span, end_on_exit=True):
            try:
                verdict = await self._app.deliver(trigger)
            except asyncio.CancelledError:
                span.set_status(StatusCode.ERROR, "its stream has ended")
                raise
            span.set_attribute("scheduler.verdict", verdict.value)
            if verdict is not Verdict.TAKEN:
                span.set_status(StatusCode.ERROR, verdict.value)
            return verdict


def start(*, app_id: str, namespace: str, spans_per_second: int, wall_ns: Callable[[], int]) -> Tracing:
    """A tracer that exports as the OTEL_* variables say."""
    provider = exporting("scheduler-sidecar", app_id)
    return Tracing(provider, app=f"app/{namespace}/{app_id}", spans_per_second=spans_per_second, wall_ns=wall_ns)
