"""A sidecar's spans: one trace from the app's call to the scheduler, and from the trigger to the app; how they belong together is the job's to say."""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from scheduler._pb.dapr.proto.runtime.v1 import jobs_pb2
from tests.support.apps import GrpcApp, HttpApp
from tests.support.collector import Collector, attributes
from tests.support.processes import ROOT
from tests.support.sidecars import Refusal, grpc_call, http_call, running_sidecar

SCHEDULE = "dapr.proto.scheduler.v1.Scheduler/ScheduleJob"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    one = Collector()
    for name, value in one.environment.items():
        monkeypatch.setenv(name, value)
    yield one
    one.close()


def is_child(span: Span, parent: Span) -> bool:
    return (span.trace_id, span.parent_span_id) == (parent.trace_id, parent.span_id)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("kind", "tracing", "chosen"),
    [
        (HttpApp, "link", None), (GrpcApp, "link", "parent"), (HttpApp, "parent", "none"),
        (GrpcApp, "off", None), (HttpApp, "off", "parent"), (GrpcApp, "off", "none"),
    ],
)  # fmt: skip
async def test_one_trace_leads_from_the_app_to_the_scheduler_and_from_the_trigger_to_the_app(
    cluster: Callable, collector: Collector, kind: type, tracing: str, chosen: str | None
) -> None:
    """Where the scheduler has no spans (off), the sidecar's belongs to the call's trace as the job says."""
    replica = await asyncio.to_thread(cluster, 1, f"--tracing={tracing}")
    caller, trace_id = secrets.token_hex(8), secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{caller}-03", "tracestate": "ours=1"}
    if chosen:
        headers["scheduler-tracing"] = chosen
    app = kind()
    protocol = {"app_port": app.port, "app_protocol": "http" if kind is HttpApp else "grpc"}
    try:
        async with running_sidecar(replica.replicas[0].address, tracing=True, **protocol) as sidecar:
            if kind is HttpApp:
                call = (sidecar.settings.dapr_http_port, "POST", "/v1.0/jobs/j", {"dueTime": "0s"}, headers)
                assert (await asyncio.to_thread(http_call, *call)).status == 204
            else:
                request = jobs_pb2.ScheduleJobRequest(job=jobs_pb2.Job(name="j", due_time="0s"))
                target = f"127.0.0.1:{sidecar.settings.dapr_grpc_port}"
                path, metadata = "/dapr.proto.runtime.v1.Dapr/ScheduleJob", tuple(headers.items())
                await asyncio.to_thread(grpc_call, target, path, request.SerializeToString(), metadata)
            told = (await asyncio.to_thread(app.wait, 1))[0].metadata
    finally:
        app.close()

    def spans() -> tuple[Span, Span, Span]:
        own = "POST /v1.0/jobs/{name}" if kind is HttpApp else "dapr.proto.runtime.v1.Dapr/ScheduleJob"
        sent = collector.wait(SCHEDULE, lambda span: span.kind == Span.SPAN_KIND_CLIENT)
        return collector.wait(own), sent, collector.wait("process trigger")

    served, sent, processed = await asyncio.to_thread(spans)
    assert (served.kind, processed.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER)
    assert (served.trace_id.hex(), served.parent_span_id.hex()) == (trace_id, caller)
    assert is_child(sent, served)
    assert told["traceparent"][3:52] == f"{processed.trace_id.hex()}-{processed.span_id.hex()}"
    assert attributes(processed)["scheduler.verdict"] == "taken" and attributes(processed)["scheduler.job"] == "j"
    origin, of_trigger = sent, processed
    if tracing != "off":
        taken = await asyncio.to_thread(collector.wait, SCHEDULE, lambda span: span.kind == Span.SPAN_KIND_SERVER)
        assert is_child(taken, sent)
        of_trigger = await asyncio.to_thread(collector.wait, "trigger default")
        assert is_child(processed, of_trigger) and not processed.links
        origin = taken
    how = chosen or ("link" if tracing == "off" else tracing)
    assert is_child(of_trigger, origin) is (how == "parent")
    assert [link.span_id for link in of_trigger.links] == ([origin.span_id] if how == "link" else [])
    assert told.get("tracestate", "") == ("ours=1" if how == "parent" else "")


@pytest.mark.e2e
async def test_what_the_app_does_not_take_is_an_error(cluster: Callable, collector: Collector) -> None:
    replica = await asyncio.to_thread(cluster, 1, "--tracing=link")
    app = HttpApp(lambda _told: 500)
    try:
        async with running_sidecar(replica.replicas[0].address, tracing=True, app_port=app.port) as sidecar:
            job = {"dueTime": "0s", "failurePolicy": {"drop": {}}}
            await asyncio.to_thread(http_call, sidecar.settings.dapr_http_port, "POST", "/v1.0/jobs/j", job)
            await asyncio.to_thread(app.wait, 1)
    finally:
        app.close()
    for name in ("process trigger", "trigger default"):
        assert (await asyncio.to_thread(collector.wait, name)).status.code == Status.STATUS_CODE_ERROR


@pytest.mark.e2e
async def test_a_choice_that_is_none_is_refused_by_name(cluster: Callable) -> None:
    replica = await asyncio.to_thread(cluster, 1)
    said = "the header scheduler-tracing is 'both', allowed are link, parent and none"
    async with running_sidecar(replica.replicas[0].address) as sidecar:
        port, headers = sidecar.settings.dapr_http_port, {"scheduler-tracing": "both"}
        answer = await asyncio.to_thread(http_call, port, "POST", "/v1.0/jobs/j", {"dueTime": "0s"}, headers)
        assert (answer.status, answer.json["message"]) == (400, said)
        request = jobs_pb2.ScheduleJobRequest(job=jobs_pb2.Job(name="j", due_time="0s")).SerializeToString()
        target, path = f"127.0.0.1:{sidecar.settings.dapr_grpc_port}", "/dapr.proto.runtime.v1.Dapr/ScheduleJob"
        with pytest.raises(Refusal) as refused:
            await asyncio.to_thread(grpc_call, target, path, request, tuple(headers.items()))
        assert (refused.value.code, refused.value.message) == (grpc.StatusCode.INVALID_ARGUMENT, said)


def test_off_loads_nothing_of_it() -> None:
    code = "import sys, scheduler.sidecar.app; assert not [m for m in sys.modules if 'opentelemetry' in m]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
