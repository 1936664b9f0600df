"""The HTTP face, row by row (sidecar-and-jobs-api.md 1). What the reference answers to 223 recorded calls is in test_recorded_http.py."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import grpc
import pytest
from hpack import Decoder

from scheduler._pb.dapr.proto.common.v1 import common_pb2
from scheduler._pb.dapr.proto.runtime.v1 import dapr_pb2
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2 import frames
from scheduler.http2.headers import encode_block
from scheduler.sidecar import http_server
from scheduler.sidecar.http_api import clean_path
from scheduler.sidecar.job_json import Malformed, parse_job
from tests.support.processes import free_port
from tests.support.sidecars import http_call, running_sidecar, until

GOOD = {"schedule": "@every 1m"}
NO_ROUTE = {
    "errorCode": "ERR_DIRECT_INVOKE",
    "message": "failed getting app id either from the URL path or the header dapr-app-id",
}
# 1.6, with the name that Go prints.
STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: ("InvalidArgument", 400),
    grpc.StatusCode.FAILED_PRECONDITION: ("FailedPrecondition", 400),
    grpc.StatusCode.OUT_OF_RANGE: ("OutOfRange", 400),
    grpc.StatusCode.UNAUTHENTICATED: ("Unauthenticated", 401),
    grpc.StatusCode.PERMISSION_DENIED: ("PermissionDenied", 403),
    grpc.StatusCode.NOT_FOUND: ("NotFound", 404),
    grpc.StatusCode.ALREADY_EXISTS: ("AlreadyExists", 409),
    grpc.StatusCode.ABORTED: ("Aborted", 409),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("ResourceExhausted", 429),
    grpc.StatusCode.UNIMPLEMENTED: ("Unimplemented", 501),
    grpc.StatusCode.UNAVAILABLE: ("Unavailable", 503),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("DeadlineExceeded", 504),
    grpc.StatusCode.INTERNAL: ("Internal", 500),
    grpc.StatusCode.DATA_LOSS: ("DataLoss", 500),
    grpc.StatusCode.UNKNOWN: ("Unknown", 500),
}


def error(code: str, message: str, *, namespace: bool = True) -> dict:
    metadata = {"appID": "myapp", "namespace": "default"} if namespace else {"appID": "myapp"}
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "domain": "dapr.io",
        "metadata": metadata,
        "reason": code,
    }
    return {"errorCode": code, "message": message, "details": [detail]}


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[{}]", b"null", b'"x"', b"{} x", b'{"repeats": -1}', b'{"repeats": 1.5}', b'{"repeats": 4294967296}',
        b'{"repeats": "x"}', b'{"overwrite": 1}', b'{"overwrite": "true"}', b'{"schedule": 1}', b'{"dueTime": ["x"]}',
        b'{"failurePolicy": "drop"}', b'{"failurePolicy": {"drop": {}, "constant": {}}}',
        b'{"failurePolicy": {"constant": {"interval": "200ms"}}}', b'{"failurePolicy": {"constant": {"interval": "2m"}}}',
        b'{"failurePolicy": {"constant": {"interval": 3}}}', b'{"dueTime": "1s", "due_time": "1s"}',
        b'{"schedule": "a", "schedule": "b"}', b'{"data": 1, "data": 2}', b"\xff", b"[" * 5_000,
    ],
)  # fmt: skip
def test_malformed_bodies(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_job(body)


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        (b"", "repeats", None),
        (b'{"unknown": 1}', "repeats", None),
        (b'{"repeats": 3}', "repeats", 3),
        (b'{"repeats": 3.0}', "repeats", 3),
        (b'{"repeats": "3"}', "repeats", 3),
        (b'{"schedule": null}', "schedule", None),
        (b'{"schedule": ""}', "schedule", ""),
        (b'{"due_time": "1s"}', "due_time", "1s"),
        (b'{"dueTime": "1s"}', "due_time", "1s"),
        (b'{"ttl": "2s", "failurePolicy": null}', "ttl", "2s"),
    ],
)
def test_what_a_body_may_leave_open(body: bytes, field: str, value: object) -> None:
    job, overwrite = parse_job(body)
    assert (getattr(job, field) if job.HasField(field) else None) == value
    assert not overwrite


def test_failure_policies_in_both_spellings() -> None:
    for spelling in (
        {"failurePolicy": {"constant": {"interval": "3s", "maxRetries": 5}}},
        {"failure_policy": {"constant": {"interval": "3s", "max_retries": 5}}},
    ):
        constant = parse_job(json.dumps(spelling).encode())[0].failure_policy.constant
        assert (constant.interval.seconds, constant.max_retries) == (3, 5)
    fraction = parse_job(b'{"failurePolicy": {"constant": {"interval": "0.2s"}}}')[0].failure_policy.constant
    assert (fraction.interval.nanos, fraction.HasField("max_retries")) == (200_000_000, False)
    assert parse_job(b'{"failurePolicy": {"drop": {}}}')[0].failure_policy.HasField("drop")
    for empty in (b'{"failurePolicy": {}}', b'{"failurePolicy": {"x": 1}}'):
        assert parse_job(empty)[0].failure_policy == common_pb2.JobFailurePolicy()


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/a/b", "/a/b"), ("/a/b/", "/a/b/"), ("//a///b", "/a/b"), ("/a/./b", "/a/b"), ("/a/../b", "/b"), ("/../a", "/a"),
        ("/a/b/..", "/a"), ("/", "/"), ("//", "/"), ("/a/..b", "/a/..b"), ("/a//", "/a/"),
    ],
)  # fmt: skip
def test_paths_are_cleaned(path: str, clean: str) -> None:
    assert clean_path(path) == clean


async def test_every_error_of_a_scheduler_has_its_status_on_both_faces(reference) -> None:
    """1.6 and 2.3: schedule keeps the code, but for Unknown; everything else is Internal."""
    async with running_sidecar(reference.address) as sidecar:
        for code, (name, status) in STATUSES.items():
            text = f"because of {name}"
            for method in ("ScheduleJob", "GetJob", "DeleteJob"):
                reference.answers[method] = lambda _data, code=code, text=text: (code, text)
            shown = f"rpc error: code = {name} desc = {text}"
            answer = await sidecar.http("POST", "/v1.0/jobs/a", GOOD)
            assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), name
            assert answer.json == error("DAPR_SCHEDULER_SCHEDULE_JOB", f"failed to schedule job due to: {shown}")
        for method, code, verb in (
            ("GET", "DAPR_SCHEDULER_GET_JOB", "get"),
            ("DELETE", "DAPR_SCHEDULER_DELETE_JOB", "delete"),
        ):
            answer = await sidecar.http(method, "/v1.0-alpha1/jobs/a")
            assert (answer.status, answer.json) == (500, error(code, f"failed to {verb} job due to: {shown}"))


async def test_checks_come_in_order_and_what_passes_is_forwarded(reference) -> None:
    async with running_sidecar(reference.address, max_body_size_bytes=1_000) as sidecar:
        for version in ("v1.0", "v1.0-alpha1"):

            async def post(name: str, body: object, version: str = version):
                answer = await sidecar.http("POST", f"/{version}/jobs/{name}", body)
                return answer.status, answer.json if answer.body else None

            large = {"errorCode": "ERR_BODY_READ", "message": "failed to read request body: stream too large"}
            assert await post("%20", b"{" + b" " * 1_000) == (400, large)
            status, found = await post("%20", b'{"name": "x"')
            assert (status, found["errorCode"], list(found)) == (400, "ERR_MALFORMED_REQUEST", ["errorCode", "message"])
            assert found["message"].startswith("failed deserializing HTTP body: ")
            in_body = error("DAPR_SCHEDULER_JOB_NAME", "Set the job name in the url only", namespace=False)
            assert await post("%20", {"name": "x"}) == (400, in_body)
            assert await post("%20", {}) == (400, error("DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"))
            schedule_empty = error("DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty")
            assert await post("a", {"ttl": "1s", "repeats": 3}) == (400, schedule_empty)
            assert not reference.calls
            assert await post("a+b%7C", {"schedule": "", "overwrite": True, "data": {"@type": "x"}}) == (204, None)
            method, data = reference.calls.pop()
            sent = pb.ScheduleJobRequest.FromString(data)
            assert (method, sent.name, sent.overwrite) == ("ScheduleJob", "a b|", True)
            assert (sent.job.HasField("schedule"), sent.job.HasField("repeats")) == (True, False)
            assert sent.job.data.type_url == "type.googleapis.com/google.protobuf.Value"
            assert (sent.metadata.app_id, sent.metadata.namespace) == ("myapp", "default")
            assert sent.metadata.target.WhichOneof("type") == "job"
            # GET and DELETE use the name as it is, and one slash at the end is no part of it.
            assert (await sidecar.http("DELETE", f"/{version}/jobs/%20/")).status == 204
            assert pb.DeleteJobRequest.FromString(reference.calls.pop()[1]).name == " "
            reference.answers["GetJob"] = lambda _data: pb.GetJobResponse(job=pb.Job(due_time="1s")).SerializeToString()
            answer = await sidecar.http("GET", f"//{version}/x/../jobs/%20")
            assert (answer.status, answer.json) == (200, {"name": " ", "dueTime": "1s"})
            assert pb.GetJobRequest.FromString(reference.calls.pop()[1]).name == " "


async def test_data_that_json_cannot_show(reference) -> None:
    """1.7: an empty Any is {}; bytes without a type, or of an unknown one, cannot be rendered."""
    async with running_sidecar(reference.address) as sidecar:
        for data, status in (
            ({}, 200),
            ({"value": b"x"}, 500),
            ({"type_url": "dapr.io/schedule/jobpayload", "value": b"x"}, 500),
        ):
            job = pb.Job(due_time="1s", data=data)
            reference.answers["GetJob"] = lambda _data, job=job: pb.GetJobResponse(job=job).SerializeToString()
            answer = await sidecar.http("GET", "/v1.0/jobs/a")
            assert answer.status == status
            if status == 200:
                assert answer.json["data"] == {}
            else:
                assert answer.json["errorCode"] == "ERR_INTERNAL"
                assert answer.json["message"].startswith("failed to encode response as JSON: ")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1.0/jobs/"), ("POST", "/v1.0/jobs"), ("PUT", "/v1.0/jobs/x"), ("PATCH", "/v1.0/jobs/x"), ("GET", "/v1.0/jobs"),
        ("DELETE", "/v1.0/jobs/"), ("POST", "/v1.0/jobs/a/b"), ("GET", "/v2.0/jobs/a"), ("POST", "/v1.0/healthz"), ("GET", "/"),
        ("GET", "/v1.0/shutdown"), ("PUT", "/v1.0/metadata"), ("POST", "/v1.0/jobs/.."),
    ],
)  # fmt: skip
async def test_what_is_no_route(sidecar_of_nobody, method: str, path: str) -> None:
    answer = await sidecar_of_nobody.http(method, path, b"{}")
    assert (answer.status, answer.json) == (404, NO_ROUTE)


@pytest.fixture
async def sidecar_of_nobody():
    async with running_sidecar() as sidecar:
        yield sidecar


async def test_without_schedulers_every_call_says_so(sidecar_of_nobody) -> None:
    """4.1: health is ready at once, and the text has no gRPC code."""
    for method, verb in (("POST", "schedule"), ("GET", "get"), ("DELETE", "delete")):
        answer = await sidecar_of_nobody.http(method, "/v1.0/jobs/a", GOOD)
        assert answer.status == 500
        assert answer.json["message"] == f"failed to {verb} job due to: scheduler clients are disabled"
    assert "scheduler" not in (await sidecar_of_nobody.http("GET", "/v1.0/metadata")).json


async def test_an_empty_list_of_hosts_says_so(reference) -> None:
    reference.hosts = []
    async with running_sidecar(reference.address) as sidecar:
        answer = await sidecar.http("POST", "/v1.0/jobs/a", GOOD)
        assert answer.json["message"] == "failed to schedule job due to: no scheduler client initialized"


async def test_health_names_what_is_missing(reference) -> None:
    """1.8: without the app's port and without a host list; outbound health needs neither."""
    down = free_port()
    async with running_sidecar(f"127.0.0.1:{down}", ready=False, app_port=free_port()) as sidecar:
        answer = await sidecar.http("GET", "/v1.0/healthz")
        message = "dapr is not ready: [runtime scheduler-watch-hosts]"
        assert (answer.status, answer.json) == (500, {"errorCode": "ERR_HEALTH_NOT_READY", "message": message})
        assert (await sidecar.http("GET", "/v1.0/healthz/outbound")).status == 204
    async with running_sidecar(reference.address) as sidecar:
        assert (await sidecar.http("GET", "/v1.0/healthz?appid=myapp")).status == 204
        answer = await sidecar.http("GET", "/v1.0/healthz?appid=other")
        assert (answer.status, answer.json["errorCode"]) == (500, "ERR_HEALTH_APPID_NOT_MATCH")
        assert answer.json["message"] == "dapr app-id does not match"


async def test_metadata_on_both_faces(reference) -> None:
    settings = {
        "app_port": free_port(),
        "app_protocol": "grpc",
        "app_max_concurrency": 7,
        "enable_app_health_check": True,
    }
    async with running_sidecar(reference.address, ready=False, **settings) as sidecar:
        await until(lambda: reference.host_watches)
        assert (await sidecar.http("PUT", "/v1.0/metadata/colour", b"blue")).status == 204
        await sidecar.grpc("SetMetadata", dapr_pb2.SetMetadataRequest(key="size", value="large"))
        await sidecar.grpc("SetMetadata", dapr_pb2.SetMetadataRequest(key="", value="nothing"))

        async def hosts_known() -> bool:
            return "scheduler" in (await sidecar.http("GET", "/v1.0/metadata")).json

        await until(hosts_known)
        shown = (await sidecar.http("GET", "/v1.0/metadata")).json
        version = shown["runtimeVersion"]
        assert shown == {
            "id": "myapp",
            "runtimeVersion": version,
            "extended": {"daprRuntimeVersion": version, "colour": "blue", "size": "large"},
            "appConnectionProperties": {
                "port": settings["app_port"],
                "protocol": "grpc",
                "channelAddress": "127.0.0.1",
                "maxConcurrency": 7,
                "health": {
                    "healthCheckPath": "/healthz",
                    "healthProbeInterval": "5s",
                    "healthProbeTimeout": "500ms",
                    "healthThreshold": 3,
                },
            },
            "actorRuntime": {"runtimeStatus": "DISABLED", "hostReady": False, "placement": "placement: disconnected"},
            "scheduler": {"connected_addresses": [reference.address]},
        }
        answer = dapr_pb2.GetMetadataResponse.FromString(
            await sidecar.grpc("GetMetadata", dapr_pb2.GetMetadataRequest())
        )
        assert dict(answer.extended_metadata) == shown["extended"]
        assert list(answer.scheduler.connected_addresses) == [reference.address]
        assert answer.app_connection_properties.max_concurrency == 7


@pytest.mark.parametrize("shown", ["", "wrong", "s3cre", "\u00fc".encode().decode("latin-1")])
async def test_callers_must_show_the_token(shown: str) -> None:
    async with running_sidecar(dapr_api_token="s3cret") as sidecar:
        headers = {"dapr-api-token": shown} if shown else {}
        for method, path in (
            ("GET", "/v1.0/metadata"),
            ("POST", "/v1.0/jobs/a"),
            ("GET", "/"),
            ("POST", "/v1.0/shutdown"),
        ):
            answer = await sidecar.http(method, path, headers=headers)
            assert (answer.status, answer.body) == (401, b"invalid api token")
            assert answer.headers["content-type"].startswith("text/plain")
        for path in ("/v1.0/healthz", "/v1.0/healthz/outbound"):
            assert (await sidecar.http("GET", path, headers=headers)).status == 204
        assert (await sidecar.http("GET", "/v1.0/metadata", headers=sidecar.token)).status == 200


async def test_headers_are_limited_in_size_and_in_time(monkeypatch) -> None:
    monkeypatch.setattr(http_server, "_HEADER_TIMEOUT_S", 0.3)
    async with running_sidecar() as sidecar:
        for headers in ({"x": "y" * 5_000}, {f"x{number}": "y" * 100 for number in range(50)}):
            assert (await sidecar.http("GET", "/v1.0/metadata", headers=headers)).status in {400, 431}
        for start in (b"", b"GET /v1.0/meta", b"PRI * HT", b"GET / HTTP/1.1\r\nhost: x\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.settings.dapr_http_port)
            writer.write(start)
            async with asyncio.timeout(8):
                with contextlib.suppress(ConnectionResetError):
                    assert not await reader.read()
            writer.close()
        assert (await sidecar.http("GET", "/v1.0/metadata")).status == 200


def over_http2(port: int, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """By hand, with hpack's decoder: cleartext HTTP/2 with prior knowledge."""
    fields = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
    block = encode_block(fields)
    end = 0 if body else frames.END_STREAM
    out = (
        frames.PREFACE
        + frames.settings({})
        + frames.head(len(block), frames.HEADERS, frames.END_HEADERS | end, 1)
        + block
    )
    if body:
        out += frames.head(len(body), frames.DATA, frames.END_STREAM, 1) + body
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        # In pieces, so that the first bytes do not tell everything.
        connection.sendall(out[:10])
        connection.sendall(out[10:])
        file = connection.makefile("rb")
        headers, received = {}, b""
        while head := file.read(9):
            payload = file.read(int.from_bytes(head[:3], "big"))
            if head[3] == frames.HEADERS:
                headers = dict(Decoder().decode(payload))
            elif head[3] == frames.DATA:
                received += payload
            if head[5:] == b"\0\0\0\x01" and head[4] & frames.END_STREAM:
                return int(headers[":status"]), headers, received
    raise AssertionError("the connection was closed")


async def test_the_same_port_speaks_http2(reference) -> None:
    async with running_sidecar(reference.address, max_body_size_bytes=10_000) as sidecar:
        port = sidecar.settings.dapr_http_port

        async def call(method: str, path: str, body: bytes = b""):
            return await asyncio.to_thread(over_http2, port, method, path, body)

        assert (await call("GET", "/v1.0/healthz"))[0] == 204
        status, headers, body = await call("GET", "/v1.0/metadata")
        assert (status, headers["content-type"], json.loads(body)["id"]) == (200, "application/json", "myapp")
        assert (await call("POST", "/v1.0/jobs/a", b'{"dueTime": "1s", "data": [1]}'))[0] == 204
        assert pb.ScheduleJobRequest.FromString(reference.calls[-1][1]).name == "a"
        status, _, body = await call("POST", "/v1.0/jobs/a", b" " * 12_000)
        assert (status, json.loads(body)["errorCode"]) == (400, "ERR_BODY_READ")
        assert (await call("PUT", "/v1.0/jobs/a"))[0] == 404
    async with running_sidecar(disable_h2c=True) as sidecar:
        with socket.create_connection(("127.0.0.1", sidecar.settings.dapr_http_port), timeout=5) as connection:
            connection.sendall(frames.PREFACE + frames.settings({}))
            assert (await asyncio.to_thread(connection.recv, 100)).startswith(b"HTTP/1.0 400 ")


async def test_unix_sockets_in_place_of_ports(reference, tmp_path: Path) -> None:
    (tmp_path / "dapr-myapp-http.socket").touch()
    async with running_sidecar(reference.address, unix_domain_socket=tmp_path) as sidecar:
        assert (await sidecar.http("POST", "/v1.0/jobs/a", GOOD)).status == 204
        await sidecar.grpc("GetMetadata", dapr_pb2.GetMetadataRequest())
        with pytest.raises(ConnectionRefusedError):
            http_call(sidecar.settings.dapr_http_port, "GET", "/v1.0/healthz")
    assert not list(tmp_path.iterdir())


async def test_the_public_port_serves_health_and_metadata_alone(reference) -> None:
    public = free_port()
    async with running_sidecar(reference.address, dapr_public_port=public):

        async def call(method: str, path: str) -> int:
            return (await asyncio.to_thread(http_call, public, method, path, b"{}")).status

        for path in ("/v1.0/healthz", "/v1.0/healthz/outbound"):
            assert await call("GET", path) == 204
        assert await call("GET", "/v1.0/metadata") == 200
        for method, path in (
            ("POST", "/v1.0/jobs/a"),
            ("GET", "/v1.0/jobs/a"),
            ("PUT", "/v1.0/metadata/a"),
            ("POST", "/v1.0/shutdown"),
        ):
            assert await call(method, path) == 404
