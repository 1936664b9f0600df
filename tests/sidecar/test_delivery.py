"""Delivery to real apps, row by row (sidecar-and-jobs-api.md 3), with triggers from a scheduler that behaves as the reference's."""

import asyncio
import json
import ssl
import subprocess
import threading
from collections import Counter
from pathlib import Path

import grpc
import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from scheduler.sidecar.app_health import Verdicts
from tests.support.apps import ALPHA, HEALTH, STABLE, GrpcApp, HttpApp
from tests.support.certificates import Authority
from tests.support.processes import answers, free_port
from tests.support.reference import ReferenceScheduler, Stream
from tests.support.sidecars import http_call, running_sidecar, until
from tests.support.toolchains import need

OK, NOT_OK = 0, 1


async def verdict(stream: Stream, name: str = "job", **trigger) -> int:
    """Send one trigger and wait for its result."""
    number = stream.send(name, **trigger)
    await until(lambda: any(one == number for one, _ in stream.results))
    return dict(stream.results)[number]


async def stream_of(reference: ReferenceScheduler) -> Stream:
    await until(lambda: reference.open)
    return reference.open[0]


def packed(message) -> AnyMessage:
    data = AnyMessage()
    data.Pack(message)
    return data


async def counts(port: int) -> tuple[float, float, float]:
    """Successes, failures, and all latencies."""
    text = (await asyncio.to_thread(http_call, port, "GET", "/metrics")).body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    labels = 'app_id="myapp",namespace="",operation="job_trigger_op"'
    latencies = sum(
        float(values[f'dapr_component_job_latencies_count{{{labels},success="{one}"}}']) for one in ("true", "false")
    )
    success, failure = (float(values[f"dapr_component_job_{one}_count{{{labels}}}"]) for one in ("success", "failure"))
    return success, failure, latencies


async def test_every_http_status_has_its_verdict(reference) -> None:
    """3.2's table, with what the metrics say; redirects are not followed."""
    app, metrics = HttpApp(), free_port()
    rows = {200: (OK, 1, 0), 201: (OK, 1, 0), 204: (OK, 1, 0), 299: (OK, 1, 0), 404: (OK, 0, 1)}
    rows |= dict.fromkeys((301, 307, 304, 400, 401, 403, 405, 408, 409, 410, 429, 500, 501, 503), (NOT_OK, 0, 1))
    successes = failures = 0
    async with running_sidecar(reference.address, app_port=app.port, enable_metrics=True, metrics_port=metrics):
        stream = await stream_of(reference)
        for status, (result, success, failure) in rows.items():
            app.answer = lambda _told, status=status: status
            assert await verdict(stream) == result, status
            successes, failures = successes + success, failures + failure
        assert len(app.told) == len(rows)
        assert await counts(metrics) == (successes, failures, len(rows))
        app.close()
        assert await verdict(stream) == NOT_OK, "connection refused"
        assert await counts(metrics) == (successes, failures, len(rows))
        app.start()
        app.answer = lambda _told: 200
        assert await verdict(stream) == OK
    app.close()


async def test_what_an_http_app_is_told(reference) -> None:
    app = HttpApp()
    async with running_sidecar(reference.address, app_port=app.port, app_api_token="for-the-app"):
        stream = await stream_of(reference)
        assert await verdict(stream, "my||job name", data=packed(wrappers_pb2.StringValue(value="hello world"))) == OK
        told = app.told[-1]
        assert (told.path, told.body) == ("/job/my%7C%7Cjob%20name", b"hello world")
        headers = {"content-type": "application/json", "content-length": "11", "dapr-api-token": "for-the-app"}
        assert told.metadata == {**headers, "host": f"127.0.0.1:{app.port}"}
        assert await verdict(stream) == OK
        assert (app.told[-1].body, app.told[-1].metadata["content-length"]) == (b"", "0")
        large = b"x" * (5 << 20)
        assert await verdict(stream, data=AnyMessage(value=large)) == OK
        assert app.told[-1].body == large
        before = len(app.told)
        assert await verdict(stream, "50%") == NOT_OK, "it fits no URL"
        assert len(app.told) == before
    app.close()


@pytest.mark.parametrize("target", ["actor", ""])
async def test_other_targets_fail_and_nothing_is_called(reference, target: str) -> None:
    app = HttpApp()
    async with running_sidecar(reference.address, app_port=app.port):
        assert await verdict(await stream_of(reference), target=target) == NOT_OK
        assert not app.told
    app.close()


async def test_every_grpc_status_has_its_verdict(reference) -> None:
    """3.3: OK and NOT_FOUND are taken; UNIMPLEMENTED asks the older callback, and only that does."""
    app, metrics = GrpcApp(), free_port()
    settings = {"app_port": app.port, "app_protocol": "grpc", "enable_metrics": True, "metrics_port": metrics}
    failures = 0
    async with running_sidecar(reference.address, **settings):
        stream = await stream_of(reference)
        for code in grpc.StatusCode:
            app.calls.clear()
            app.answer = lambda _told, code=code: code
            taken = code in {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}
            assert await verdict(stream) == (OK if taken else NOT_OK), code
            assert app.calls == ([STABLE, ALPHA] if code is grpc.StatusCode.UNIMPLEMENTED else [STABLE])
            failures += code is not grpc.StatusCode.OK
        assert await counts(metrics) == (1, failures, len(grpc.StatusCode))
    app.close()


async def test_what_a_grpc_app_is_told(reference) -> None:
    app = GrpcApp()
    settings = {"app_port": app.port, "app_protocol": "grpc", "app_api_token": "for-the-app"}
    async with running_sidecar(reference.address, **settings):
        stream = await stream_of(reference)
        for data in (
            None,
            AnyMessage(),
            AnyMessage(type_url="x/y", value=bytes(range(256))),
            packed(wrappers_pb2.BytesValue(value=b" x ")),
        ):
            assert await verdict(stream, "a job", data=data) == OK
            message = app.told[-1].message
            assert message is not None
            assert (message.name, message.method, message.http_extension.verb) == ("a job", "job/a job", 3)
            assert message.HasField("data") == (data is not None)
            assert (message.data, message.content_type) == (data or AnyMessage(), data.type_url if data else "")
        assert app.told[-1].metadata["dapr-api-token"] == "for-the-app"
        large = AnyMessage(value=b"x" * (5 << 20))
        before = len(app.told)
        assert await verdict(stream, data=large) == NOT_OK, "larger than --max-body-size"
        assert len(app.told) == before
    app.close()


async def test_the_older_callback_is_remembered_for_its_connection(reference) -> None:
    app = GrpcApp(known=(ALPHA,))
    async with running_sidecar(reference.address, app_port=app.port, app_protocol="grpc"):
        stream = await stream_of(reference)
        for _ in range(3):
            assert await verdict(stream) == OK
        assert app.calls == [STABLE, ALPHA, ALPHA, ALPHA]
        # An app that learns the new one meanwhile is asked for it again.
        app.calls.clear()
        app.known = (STABLE,)
        assert await verdict(stream) == OK
        assert await verdict(stream) == OK
        assert app.calls == [ALPHA, STABLE, STABLE]
    app.close()


async def test_a_new_connection_begins_with_the_new_callback(reference) -> None:
    app = GrpcApp(known=(ALPHA,))
    async with running_sidecar(reference.address, app_port=app.port, app_protocol="grpc"):
        stream = await stream_of(reference)
        assert await verdict(stream) == OK
        app.close()
        assert await verdict(stream) == NOT_OK
        successor = GrpcApp(port=app.port)
        assert await verdict(stream) == OK
        assert STABLE in successor.calls
        successor.close()


async def test_triggers_run_side_by_side_without_a_time_limit_and_are_answered_as_they_finish(reference) -> None:
    """3.1, 3.4: no limit unless there is one, and answers in the order of completion."""
    release = {f"job{number}": threading.Event() for number in range(200)}
    app = HttpApp(lambda told: 200 if release[told.name].wait(30) else 500)
    async with running_sidecar(reference.address, app_port=app.port):
        stream = await stream_of(reference)
        ids = {name: stream.send(name) for name in release}
        await until(lambda: len(app.told) == 200)
        assert not stream.results
        order = list(release)[::-1]
        for count, name in enumerate(order[:20], 1):
            release[name].set()
            await until(lambda count=count: len(stream.results) == count)
        assert [number for number, _ in stream.results] == [ids[name] for name in order[:20]]
        for event in release.values():
            event.set()
        await until(lambda: len(stream.results) == 200)
    app.close()


async def test_max_concurrency_is_kept(reference) -> None:
    running, peak, lock = Counter(), [], threading.Lock()
    release = threading.Event()

    def answer(_told) -> int:
        with lock:
            running["now"] += 1
            peak.append(running["now"])
        release.wait(0.02)
        with lock:
            running["now"] -= 1
        return 200

    app = HttpApp(answer)
    async with running_sidecar(reference.address, app_port=app.port, app_max_concurrency=3):
        await until(lambda: len(reference.open) == 3)
        for stream in reference.open:
            for number in range(20):
                stream.send(f"job{number}")
        await until(lambda: sum(len(stream.results) for stream in reference.open) == 60)
        assert max(peak) == 3
    app.close()


async def test_the_end_of_a_stream_cuts_the_calls_that_run_for_it(reference) -> None:
    """3.4: the scheduler sends them again, so the app must not have them twice at once."""
    dropped = threading.Event()
    gone: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if await reader.read() == b"":
            gone.append("cut")
        dropped.set()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with running_sidecar(reference.address, app_port=server.sockets[0].getsockname()[1]):
        stream = await stream_of(reference)
        stream.send("slow")
        await asyncio.sleep(0.1)
        stream.end()
        await until(lambda: gone)
        assert not stream.results
    server.close()


async def test_what_the_app_has_taken_is_not_told_again(reference) -> None:
    """A scheduler that died before it committed the answer sends the occurrence again; one that failed must come again."""
    app = HttpApp()
    async with running_sidecar(reference.address, app_port=app.port):
        await until(lambda: len(reference.open) == 3)
        first, second, _ = reference.open
        for status, result, times in ((500, NOT_OK, 1), (200, OK, 2), (500, OK, 2)):
            app.answer = lambda _told, status=status: status
            for stream in (first, second) if times == 2 else (first,):
                assert await verdict(stream, occurrence={"generation": 7, "index": 1}) == result
            assert len(app.told) == times
        app.answer = lambda _told: 200
        for other in ({"generation": 7, "index": 2}, {"generation": 8, "index": 1}, {}, {}):
            before = len(app.told)
            assert await verdict(first, occurrence=other) == OK
            assert len(app.told) == before + 1
    app.close()


async def test_a_graceful_stop_lets_the_app_finish(reference) -> None:
    """What the app has is finished and answered; what comes meanwhile goes back unopened."""
    release = threading.Event()
    app = HttpApp(lambda _told: 200 if release.wait(10) else 500)
    async with running_sidecar(reference.address, app_port=app.port, graceful_shutdown_s=10) as sidecar:
        stream = await stream_of(reference)
        number = stream.send("begun")
        await until(lambda: app.told)
        await sidecar.http("POST", "/v1.0/shutdown")
        stream.send("too late")
        await asyncio.sleep(0.1)
        release.set()
        assert await sidecar.task == 0
    assert (app.names, stream.results) == (["begun"], [(number, OK)])
    app.close()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_health_checks_stop_and_resume_the_streams(reference, protocol: str) -> None:
    """3.5: unhealthy at first; one success opens the streams, three failures in a row close them; the API works throughout."""
    app = HttpApp() if protocol == "http" else GrpcApp()
    good = app.health
    app.health = 500 if protocol == "http" else grpc.StatusCode.UNAVAILABLE
    settings = {"enable_app_health_check": True, "app_health_probe_interval_s": 0.1, "app_health_probe_timeout_ms": 100}
    async with running_sidecar(reference.address, app_port=app.port, app_protocol=protocol, **settings) as sidecar:
        await until(lambda: app.probes >= 4)
        assert not reference.streams
        app.health = good
        await until(lambda: len(reference.open) == 3)
        app.health = 500 if protocol == "http" else grpc.StatusCode.UNAVAILABLE
        await until(lambda: not reference.open)
        assert (await sidecar.http("POST", "/v1.0/jobs/a", {"dueTime": "1s"})).status == 204
        assert (await sidecar.http("GET", "/v1.0/healthz")).status == 204
        app.health = good
        await until(lambda: len(reference.open) == 3)
        assert await verdict(reference.open[0]) == OK
    assert len(reference.streams) == 6
    if isinstance(app, GrpcApp):
        assert HEALTH in app.calls
    app.close()


async def test_the_path_of_the_probe_is_ours_to_choose(reference) -> None:
    app = HttpApp()
    settings = {"enable_app_health_check": True, "app_health_check_path": "/am/i/ok?x=1"}
    async with running_sidecar(reference.address, app_port=app.port, **settings):
        await until(lambda: len(reference.open) == 3)
        assert app.probed == ["/am/i/ok?x=1"]
    app.close()


def test_only_failures_in_a_row_count() -> None:
    verdicts = Verdicts(3)
    assert not verdicts.healthy
    assert [verdicts.note(succeeded=one) for one in (False, False, False, False, True, True)] == [False] * 4 + [
        True,
        False,
    ]
    for _ in range(5):
        assert not any(verdicts.note(succeeded=one) for one in (False, False, True))
    assert [verdicts.note(succeeded=False) for _ in range(4)] == [False, False, True, False]


async def test_without_an_app_port_no_jobs_are_watched_for(reference) -> None:
    """A deviation on purpose (3.5): the reference would burn the retries of every due job."""
    async with running_sidecar(reference.address) as sidecar:
        assert (await sidecar.http("POST", "/v1.0/jobs/a", {"dueTime": "1s"})).status == 204
        assert not reference.streams


async def test_streams_wait_for_the_apps_port(reference) -> None:
    app = HttpApp(start=False)
    async with running_sidecar(reference.address, ready=False, app_port=app.port) as sidecar:
        await until(lambda: reference.host_watches)
        assert (await sidecar.http("GET", "/v1.0/healthz")).json["message"].endswith("[runtime]")
        assert not reference.streams
        app.start()
        await until(lambda: len(reference.open) == 3)
        assert (await sidecar.http("GET", "/v1.0/healthz")).status == 204
    app.close()


async def test_apps_under_tls_are_reached_without_a_look_at_their_certificates(reference, tmp_path: Path) -> None:
    cert, key = Authority(tmp_path / "ca").leaf("app", [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    app = HttpApp(tls=context)
    async with running_sidecar(reference.address, app_port=app.port, app_protocol="https"):
        assert await verdict(await stream_of(reference), "a") == OK
        assert app.names == ["a"]
    app.close()
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    secured = GrpcApp(credentials=credentials)
    await until(lambda: not reference.open)
    async with running_sidecar(reference.address, app_port=secured.port, app_protocol="grpcs"):
        assert await verdict(await stream_of(reference), "b") == OK
        assert secured.names == ["b"]
    secured.close()


_NODE_APP = """
const http2 = require("http2");
http2.createServer((request, answer) => {
  const parts = [];
  request.on("data", part => parts.push(part));
  request.on("end", () => {
    console.log(JSON.stringify({path: request.url, headers: request.headers, size: Buffer.concat(parts).length}));
    answer.writeHead(request.url === "/job/missing" ? 404 : request.url === "/job/bad" ? 500 : 200);
    answer.end("x".repeat(100000));
  });
}).listen(+process.argv[1], "127.0.0.1");
"""


@pytest.mark.interop
async def test_an_app_on_cleartext_http2(reference) -> None:
    """By Node's own server, which shares nothing with our transport."""
    need("node")
    port = free_port()
    node = subprocess.Popen(["node", "-e", _NODE_APP, "--", str(port)], stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    try:
        await until(lambda: answers(port))
        settings = {"app_port": port, "app_protocol": "h2c", "app_api_token": "t", "enable_app_health_check": True}
        async with running_sidecar(reference.address, **settings):
            stream = await stream_of(reference)
            probe = json.loads(await asyncio.to_thread(node.stdout.readline))
            assert (probe["path"], probe["headers"][":method"]) == ("/healthz", "GET")
            for name, size, result in (("a b", 0, OK), ("large", 3 << 20, OK), ("missing", 1, OK), ("bad", 1, NOT_OK)):
                data = AnyMessage(value=b"x" * size) if size else None
                assert await verdict(stream, name, data=data) == result
                told = json.loads(await asyncio.to_thread(node.stdout.readline))
                assert (told["path"], told["size"]) == (f"/job/{name.replace(' ', '%20')}", size)
                assert told["headers"]["content-type"] == "application/json"
                assert (told["headers"]["content-length"], told["headers"]["dapr-api-token"]) == (str(size), "t")
    finally:
        node.kill()
        node.wait()
        node.stdout.close()
