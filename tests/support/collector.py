"""An OpenTelemetry collector, as far as spans go: takes them by OTLP over gRPC and keeps them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.processes import wait_until


class Collector:
    """Listens on a free port until `close`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        export = grpc.unary_unary_rpc_method_handler(
            self._export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
        )
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": export})])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _export(self, request: ExportTraceServiceRequest, _context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        for one in request.resource_spans:
            self.resources.append({item.key: item.value.string_value for item in one.resource.attributes})
            for scope in one.scope_spans:
                self.spans.extend(scope.spans)
        return ExportTraceServiceResponse()

    @property
    def environment(self) -> dict[str, str]:
        """What a process that exports here is told."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def wait(self, name: str, fits: Callable[[Span], bool] = lambda _span: True) -> Span:
        """The first span of that name that fits."""

        def found() -> list[Span]:
            return [span for span in list(self.spans) if span.name == name and fits(span)]

        wait_until(lambda: bool(found()), timeout_s=30, what=f"a span {name}")
        return found()[0]

    def close(self) -> None:
        self._server.stop(0)


def attributes(span: Span) -> dict[str, object]:
    """A span's attributes by name."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}
