"""Tracing: from the call that schedules a job to the delivery, as a collector sees it; bounded, and not there where it is off."""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.aio.clock import SystemClock
from scheduler.tracing import Tracing
from tests.delivery.test_hub import KEY, Bench, Outlet
from tests.support.apps import GrpcApp, HttpApp
from tests.support.client import SERVICE, Client, Watcher, job_metadata
from tests.support.collector import Collector, attributes
from tests.support.processes import ROOT, wait_until
from tests.support.sidecars import http_call, running_sidecar

SCHEDULE = f"{SERVICE}/ScheduleJob".removeprefix("/")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    one = Collector()
    for name, value in one.environment.items():
        monkeypatch.setenv(name, value)
    yield one
    one.close()


def schedule(client: Client, name: str, parent: str, **job: str) -> None:
    """As an instrumented caller does."""
    request = pb.ScheduleJobRequest(name=name, job=pb.Job(**job), metadata=job_metadata())
    call = client.channel.unary_unary(
        f"{SERVICE}/ScheduleJob", lambda message: message.SerializeToString(), pb.ScheduleJobResponse.FromString
    )
    call(request, timeout=10, metadata=(("traceparent", parent), ("tracestate", "ours=1")))


@pytest.mark.e2e
@pytest.mark.parametrize("propagation", ["link", "parent"])
def test_a_trace_leads_from_the_callers_span_to_the_delivery(
    cluster: Callable, collector: Collector, propagation: str
) -> None:
    replica = cluster(1, f"--tracing={propagation}").replicas[0]
    client, watcher = Client(replica.address), Watcher([replica.address])
    watcher.verdict = lambda hit: pb.SUCCESS if hit.attempt else pb.FAILED
    trace_id, caller = secrets.token_bytes(16), secrets.token_bytes(8)
    try:
        schedule(client, "traced", f"00-{trace_id.hex()}-{caller.hex()}-01", due_time="0s")
        with pytest.raises(grpc.RpcError):
            schedule(client, "refused", f"00-{trace_id.hex()}-{caller.hex()}-01", schedule="no such")
        call = collector.wait(SCHEDULE, lambda span: attributes(span)["rpc.grpc.status_code"] == 0)
        assert (call.trace_id, call.parent_span_id, call.kind) == (trace_id, caller, Span.SPAN_KIND_SERVER)
        refused = collector.wait(SCHEDULE, lambda span: attributes(span)["rpc.grpc.status_code"] != 0)
        assert refused.trace_id == trace_id
        failed = collector.wait("trigger default", lambda span: attributes(span)["scheduler.attempt"] == 0)
        again = collector.wait("trigger default", lambda span: attributes(span)["scheduler.attempt"] == 1)
        assert (failed.status.code, again.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)
        for span in (failed, again):
            assert span.kind == Span.SPAN_KIND_PRODUCER
            if propagation == "parent":
                assert (span.trace_id, span.parent_span_id) == (trace_id, call.span_id)
                assert not span.links
            else:
                assert span.trace_id != trace_id and not span.parent_span_id, "a trace of its own"
                assert [(link.trace_id, link.span_id) for link in span.links] == [(trace_id, call.span_id)]
        about = attributes(again)
        assert (about["scheduler.job"], about["messaging.destination.name"]) == ("traced", "app/default/app")
        assert about["scheduler.replica"] == replica.name and about["scheduler.lateness_ms"] < 5_000
        # The delivery says which span it belongs to, and its state is that trace's.
        for hit, span in zip(watcher.hits, (failed, again), strict=True):
            assert hit.message.trace_parent[3:52] == f"{span.trace_id.hex()}-{span.span_id.hex()}"
            assert hit.message.trace_state == ("ours=1" if propagation == "parent" else "")
        assert collector.resources[0]["service.name"] == "scheduler"
        assert collector.resources[0]["service.instance.id"] == replica.name
    finally:
        watcher.close()
        client.close()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", [HttpApp, GrpcApp])
@pytest.mark.parametrize("tracing", ["off", "link"])
async def test_the_app_behind_a_sidecar_is_told_the_context(
    cluster: Callable, collector: Collector, kind: type, tracing: str
) -> None:
    """Of the trigger's span, or, without tracing, of the call that scheduled the job."""
    replica = await asyncio.to_thread(cluster, 1, f"--tracing={tracing}")
    caller = f"{secrets.token_hex(16)}-{secrets.token_hex(8)}"
    app = kind()
    protocol = {"app_port": app.port, "app_protocol": "http" if kind is HttpApp else "grpc"}
    try:
        async with running_sidecar(replica.replicas[0].address, **protocol) as sidecar:
            headers = {"traceparent": f"00-{caller}-01", "tracestate": "ours=1"}
            call = (sidecar.settings.dapr_http_port, "POST", "/v1.0/jobs/j", {"dueTime": "0s"}, headers)
            assert (await asyncio.to_thread(http_call, *call)).status == 204
            told = (await asyncio.to_thread(app.wait, 1))[0].metadata
    finally:
        app.close()
    if tracing == "off":
        assert (told["traceparent"], told["tracestate"]) == (f"00-{caller}-01", "ours=1")
        return
    span = await asyncio.to_thread(collector.wait, "trigger default")
    assert told["traceparent"][3:52] == f"{span.trace_id.hex()}-{span.span_id.hex()}"
    # The sidecar's call had no span of its own: the scheduler's follows the app's.
    call_span = await asyncio.to_thread(collector.wait, SCHEDULE)
    assert f"{call_span.trace_id.hex()}-{call_span.parent_span_id.hex()}" == caller


@pytest.mark.e2e
def test_a_collector_that_is_not_there_holds_nothing_up(cluster: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    replica = cluster(1, "--tracing=link").replicas[0]
    client, watcher = Client(replica.address), Watcher([replica.address])
    try:
        for number in range(20):
            client.schedule(f"j{number}", due_time="0s")
        wait_until(lambda: len(watcher.hits) == 20, timeout_s=30, what="all are delivered")
    finally:
        watcher.close()
        client.close()
    assert replica.terminate(timeout_s=12) == 0


class Traced:
    """A hub with spans, with its surroundings played."""

    def __init__(self, per_second: int = 100, propagation: str = "link", **provider: object) -> None:
        self.exporter = InMemorySpanExporter()
        provider_ = TracerProvider(shutdown_on_exit=False, **provider)
        provider_.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(
            replica="r",
            propagation=propagation,
            spans_per_second=per_second,
            wall_ns=SystemClock().wall_ns,
            provider=provider_,
        )
        self.bench = Bench(self.tracing.hub)
        self.bench.partition.number = 1

    def attach(self) -> tuple[object, list[pb.WatchJobsResponse]]:
        got: list[pb.WatchJobsResponse] = []

        class Keeping(Outlet):
            def send_framed(self, chunk: bytes) -> None:
                while chunk:
                    size = int.from_bytes(chunk[1:5])
                    got.append(pb.WatchJobsResponse.FromString(chunk[5 : 5 + size]))
                    chunk = chunk[5 + size :]

        return self.bench.hub.attach(Keeping(), [KEY]), got


async def test_spans_of_triggers_are_bounded_and_the_rest_is_delivered_as_it_was() -> None:
    traced = Traced(per_second=5)
    stream, got = traced.attach()
    for number in range(50):
        traced.bench.hub.offer(traced.bench.job(f"j{number}"), 2)
    traced.bench.hub.flush()
    assert len(got) == 50 and len([one for one in got if one.trace_parent]) == 5
    for one in list(stream.in_flight):
        traced.bench.hub.acknowledge(stream, one, True)
    assert len(traced.exporter.get_finished_spans()) == 5


async def test_a_span_ends_with_its_stream() -> None:
    traced = Traced()
    stream, _got = traced.attach()
    traced.bench.hub.offer(traced.bench.job("j"), 2)
    assert traced.exporter.get_finished_spans() == ()
    traced.bench.hub.detach(stream)
    (span,) = traced.exporter.get_finished_spans()
    assert span.status.description == "its stream has ended"


async def test_what_the_sampler_leaves_out_says_so_to_whoever_is_told() -> None:
    traced = Traced(sampler=ALWAYS_OFF)
    stream, got = traced.attach()
    job = traced.bench.job("j")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    job.trigger += pb.WatchJobsResponse(trace_parent=parent).SerializeToString()
    before = job.trigger
    traced.bench.hub.offer(job, 2)
    traced.bench.hub.flush()
    assert got[0].trace_parent[:35] != parent[:35] and job.trigger == before
    assert int(got[0].trace_parent[-2:], 16) & 1 == 0, "not sampled: whoever follows leaves it out, too"
    traced.bench.hub.acknowledge(stream, 1, True)
    assert traced.exporter.get_finished_spans() == ()


@pytest.mark.parametrize("flags", ["01", "03", "ff"])
@pytest.mark.parametrize("version", ["00", "01", "cc"])
@pytest.mark.parametrize(
    ("chosen", "default"), [("", "link"), ("link", "none"), ("parent", "link"), ("none", "parent"), ("", "none")]
)
async def test_a_job_chooses_how_its_triggers_belong_to_its_trace(
    chosen: str, default: str, version: str, flags: str
) -> None:
    """Any version and any flags: what follows the call is what the call's trace is, and bit 0 says whether it is sampled."""
    traced = Traced(propagation=default)
    stream, got = traced.attach()
    job = traced.bench.job("j")
    trace_id, span_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    stored = pb.WatchJobsResponse(trace_parent=f"{version}-{trace_id}-{span_id}-{flags}", tracing=chosen)
    job.trigger += stored.SerializeToString()
    traced.bench.hub.offer(job, 2)
    traced.bench.hub.flush()
    traced.bench.hub.acknowledge(stream, 1, True)
    (span,) = traced.exporter.get_finished_spans()
    how = chosen or default
    assert (f"{span.context.trace_id:032x}" == trace_id) is (how == "parent")
    assert (span.parent is not None) is (how == "parent")
    assert [f"{link.context.span_id:016x}" for link in span.links] == ([span_id] if how == "link" else [])
    assert got[0].tracing == "parent", "the receiver's span is this span's child"
    assert got[0].trace_parent[3:52] == f"{span.context.trace_id:032x}-{span.context.span_id:016x}"


def test_off_loads_nothing_of_it() -> None:
    code = "import sys, scheduler.app, scheduler.cli; assert not [m for m in sys.modules if 'opentelemetry' in m]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_without_the_extra_it_says_what_to_install() -> None:
    """A module that cannot be found is played by one that the import system is told not to find."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from scheduler.app import _tracing; from scheduler.config import ServeSettings, ConfigError\n"
        "try: _tracing(ServeSettings(tracing='link'), None)\n"
        "except ConfigError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip install '.[otel]'" in said
