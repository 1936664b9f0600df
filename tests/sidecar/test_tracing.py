"""A sidecar's spans: one trace from the app's call to the scheduler, and from the trigger to the app; how they belong together is the job's to say."""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from scheduler._pb.dapr.proto.runtime.v1 import jobs_pb2
from scheduler.client import Client, ClientError
from tests.support.apps import GrpcApp, HttpApp
from tests.support.collector import Collector, attributes
from tests.support.processes import ROOT, Sidecar
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


@pytest.mark.e2e
def test_log_lines_and_exemplars_name_the_trace(cluster: Callable, collector: Collector, tmp_path: Path) -> None:
    """Of real processes: the sidecar's lines of JSON, and the replica's histograms for whoever asks for OpenMetrics."""
    replica = cluster(1, "--tracing=link").replicas[0]
    app = HttpApp()
    arguments = ("--app-id=myapp", f"--app-port={app.port}", "--tracing", "--log-as-json", "--enable-api-logging")
    sidecar = Sidecar(tmp_path / "sidecar", [replica.address], *arguments, "--enable-metrics=false").start()
    try:
        assert http_call(sidecar.http_port, "POST", "/v1.0/jobs/j", {"dueTime": "0s"}).status == 204
        app.wait(1)
        served, trigger = collector.wait("POST /v1.0/jobs/{name}"), collector.wait("trigger default")
    finally:
        sidecar.terminate()
        app.close()
    (line,) = [json.loads(line) for line in sidecar.tail(1 << 20).splitlines() if '"api_called"' in line]
    assert (line["trace_id"], line["span_id"]) == (served.trace_id.hex(), served.span_id.hex())
    begun = next(json.loads(line) for line in sidecar.tail(1 << 20).splitlines() if '"sidecar_serving"' in line)
    assert "trace_id" not in begun, "no span is current"

    def scrape(accept: str) -> str:
        request = Request(f"http://127.0.0.1:{replica.metrics_port}/", headers={"Accept": accept})
        return urlopen(request, timeout=30).read().decode()

    found = {
        sample.name: sample.exemplar
        for family in text_string_to_metric_families(scrape("application/openmetrics-text;version=1.0.0"))
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert set(found) == {"scheduler_trigger_lateness_seconds_bucket", "scheduler_trigger_ack_duration_seconds_bucket"}
    assert {one.labels["trace_id"] for one in found.values()} == {trigger.trace_id.hex()}
    assert "# EOF" not in scrape("text/plain") and "trace_id" not in scrape("text/plain")


@pytest.mark.e2e
def test_the_command_line_and_the_client_choose_too(cluster: Callable) -> None:
    replica = cluster(1).replicas[0]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = (f"--address={replica.address}", "--app-id=app")
        command = [sys.executable, "-m", "scheduler", "job", *arguments, *where]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run("schedule", "by-command", "--due-time=1h", "--tracing=parent").returncode == 0
    refused = run("schedule", "other", "--due-time=1h", "--tracing=both")
    assert refused.returncode == 2 and "'link', 'parent', 'none'" in refused.stderr

    async def by_client() -> None:
        async with Client(replica.address, app_id="app") as client:
            await client.schedule("by-client", due_time="1h", tracing="none")
            with pytest.raises(ClientError, match="tracing is 'both', allowed are link, parent and none"):
                await client.schedule("other", due_time="1h", tracing="both")
            await client.schedule("plain", due_time="1h")
            caller = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
            await client.schedule("now", due_time="0s", trace={"traceparent": caller, "tracestate": "ours=1"})
            async for trigger in client.triggers():
                assert (trigger.name, trigger.trace) == ("now", {"traceparent": caller, "tracestate": "ours=1"})
                break

    asyncio.run(by_client())
    listed = {job["name"]: job.get("tracing") for job in json.loads(run("list", "-o", "json").stdout)}
    assert listed == {"by-command": "parent", "by-client": "none", "plain": None}


def test_off_loads_nothing_of_it() -> None:
    code = "import sys, scheduler.sidecar.app; assert not [m for m in sys.modules if 'opentelemetry' in m]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
