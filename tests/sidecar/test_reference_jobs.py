"""The reference's own tests of jobs on the sidecar's side (sidecar-and-jobs-api.md 8), each named after its file there, with a real replica and etcd.

docs/sidecar.md maps every file to its test. Where the reference waits for silence, these wait until the job is gone, which says more.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from scheduler._pb.dapr.proto.common.v1 import common_pb2
from scheduler._pb.dapr.proto.runtime.v1 import dapr_pb2, jobs_pb2
from tests.support.apps import GrpcApp, HttpApp, Told
from tests.support.processes import free_port
from tests.support.sidecars import Refusal, RunningSidecar, http_call, running_sidecar, until

pytestmark = pytest.mark.e2e
DROP = common_pb2.JobFailurePolicy(drop={})


class Beside:
    """A sidecar, the app that it stands beside, and calls in the app's name."""

    def __init__(self, sidecar: RunningSidecar, app: HttpApp | GrpcApp | None) -> None:
        self.sidecar = sidecar
        self._app = app

    @property
    def app(self) -> HttpApp | GrpcApp:
        assert self._app is not None
        return self._app

    async def schedule(self, name: str, *, overwrite: bool = False, **job: Any) -> None:
        request = jobs_pb2.ScheduleJobRequest(job=jobs_pb2.Job(name=name, **job), overwrite=overwrite)
        await self.sidecar.grpc("ScheduleJob", request)

    async def post(self, name: str, body: Any) -> int:
        return (await self.sidecar.http("POST", f"/v1.0/jobs/{name}", body)).status

    async def get(self, name: str) -> jobs_pb2.Job:
        answer = await self.sidecar.grpc("GetJob", jobs_pb2.GetJobRequest(name=name))
        return jobs_pb2.GetJobResponse.FromString(answer).job

    async def delete(self, name: str) -> None:
        await self.sidecar.grpc("DeleteJob", jobs_pb2.DeleteJobRequest(name=name))

    async def names(self) -> list[str]:
        answer = await self.sidecar.grpc("ListJobs", jobs_pb2.ListJobsRequest())
        return sorted(job.name for job in jobs_pb2.ListJobsResponse.FromString(answer).jobs)

    async def finished(self, timeout_s: float = 15.0) -> None:
        """Every job of the app is done and gone, so nothing more can come."""

        async def none_left() -> bool:
            return not await self.names()

        await until(none_left, timeout_s)

    async def told(self, count: int, timeout_s: float = 30.0) -> list[Told]:
        await until(lambda: len(self.app.told) >= count, timeout_s)
        return self.app.told


@pytest.fixture
def beside(shared, app_id):
    """Makes sidecars of this test's app (or another) on the shared replica."""

    @asynccontextmanager
    async def make(app: HttpApp | GrpcApp | None = None, **settings: Any) -> AsyncIterator[Beside]:
        if app is not None:
            settings = {
                "app_port": app.port,
                "app_protocol": "grpc" if isinstance(app, GrpcApp) else "http",
                **settings,
            }
        async with running_sidecar(*shared.addresses, **{"app_id": app_id, **settings}) as sidecar:
            yield Beside(sidecar, app)
        if app is not None:
            app.close()

    return make


def packed(message) -> AnyMessage:
    data = AnyMessage()
    data.Pack(message)
    return data


async def test_delete(beside, app_id) -> None:
    async with beside() as one, beside(app_id=f"{app_id}-other") as other:
        for name in ("test1", "test2", "other"):
            await one.schedule(name, schedule="@every 1h")
        await other.schedule("test1", schedule="@every 1h")
        await one.delete("test1")
        assert (await one.names(), await other.names()) == (["other", "test2"], ["test1"])
        await one.sidecar.grpc("DeleteJobsByPrefix", jobs_pb2.DeleteJobsByPrefixRequest(name_prefix="test"))
        assert (await one.names(), await other.names()) == (["other"], ["test1"])
        await one.sidecar.grpc("DeleteJobsByPrefixAlpha1", jobs_pb2.DeleteJobsByPrefixRequestAlpha1())
        assert (await one.names(), await other.names()) == ([], ["test1"])
        await other.delete("test1")


async def test_duetime(beside) -> None:
    async with beside(GrpcApp()) as one:
        await one.schedule("test", schedule="@every 1m", due_time="0s")
        told = (await one.told(1))[0]
        assert told.message is not None
        assert told.message.method == "job/test"
        await one.delete("test")


async def test_durable(beside) -> None:
    async with beside(HttpApp()) as one:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for number in range(40):
            await one.schedule(f"test{number}", due_time=now)
        await one.finished()
        assert sorted(one.app.names) == sorted(f"test{number}" for number in range(40))


async def test_failurepolicy_constant_interval(beside) -> None:
    async with beside(HttpApp(lambda _told: 500)) as one:
        constant = common_pb2.JobFailurePolicyConstant(interval={"seconds": 3}, max_retries=1)
        await one.schedule("test", due_time="0s", failure_policy={"constant": constant})
        first = (await one.told(1))[0]
        await one.finished()
        assert len(one.app.told) == 2
        assert one.app.told[1].at - first.at > 2.9


async def test_failurepolicy_constant_maxretries(beside) -> None:
    async with beside(HttpApp(lambda _told: 500)) as one:
        await one.schedule("test", due_time="0s", failure_policy={"constant": {"max_retries": 4}})
        await one.finished()
        assert len(one.app.told) == 5


@pytest.mark.parametrize("status", [200, 500])
async def test_failurepolicy_drop(beside, status: int) -> None:
    async with beside(HttpApp(lambda _told: status)) as one:
        await one.schedule("test", due_time="0s", failure_policy=DROP)
        await one.finished()
        assert len(one.app.told) == 1


async def test_failurepolicy_noset(beside) -> None:
    """allfail, failfirst, failsecond and failthird side by side: with the default, a second between retries and three of them."""
    failures = {"allfail": 99, "failfirst": 1, "failsecond": 2, "failthird": 3}
    app = HttpApp()
    app.answer = lambda told: 500 if app.names.count(told.name) <= failures[told.name] else 200
    async with beside(app) as one:
        for name in failures:
            await one.schedule(name, due_time="0s")
        await one.finished()
        assert {name: app.names.count(name) for name in failures} == {
            "allfail": 4,
            "failfirst": 2,
            "failsecond": 3,
            "failthird": 4,
        }


async def test_failurepolicy_notfound(beside) -> None:
    async with beside(HttpApp(lambda _told: 404)) as one:
        await one.schedule("test", due_time="0s")
        await one.finished()
        assert len(one.app.told) == 1


async def test_get_schedule_and_specialchars(beside) -> None:
    """get.go, schedule.go and specialchars.go."""
    async with beside(HttpApp()) as one:
        await one.schedule("daily", schedule="@daily")
        assert (await one.get("daily")).schedule == "@daily"
        await one.schedule("cron", schedule="1 2 3 4 5 6")
        name = "my||job@name"
        await one.schedule(name, due_time="0s", schedule="@every 1h")
        assert (await one.told(1))[0].path == "/job/my%7C%7Cjob@name"
        assert (await one.get(name)).name == name
        assert await one.names() == ["cron", "daily", name]
        await one.sidecar.grpc("DeleteJobsByPrefix", jobs_pb2.DeleteJobsByPrefixRequest())


class TestGrpc:
    """The directory grpc/."""

    async def test_api(self, beside) -> None:
        async with beside(GrpcApp()) as one:
            custom = AnyMessage(type_url="type.googleapis.com/my.Ping", value=b"\x0a\x04pong\x10\x7b")
            value = packed(ParseDict({"a": [1]}, Value()))
            for data in (value, packed(wrappers_pb2.BytesValue(value=b"hello world")), custom):
                await one.schedule("test", due_time="0s", data=data)
                await one.finished()
                message = one.app.told[-1].message
                assert message is not None
                assert (message.data, message.content_type) == (data, data.type_url)
                assert (message.name, message.method, message.http_extension.verb) == ("test", "job/test", 3)

    async def test_appapitoken(self, beside) -> None:
        async with beside(GrpcApp(), app_api_token="abcdef") as one:
            await one.schedule("test", due_time="0s")
            assert (await one.told(1))[0].metadata["dapr-api-token"] == "abcdef"

    async def test_basic(self, beside) -> None:
        async with beside() as one:
            for request in (
                jobs_pb2.ScheduleJobRequest(), jobs_pb2.ScheduleJobRequest(job={}), jobs_pb2.ScheduleJobRequest(job={"schedule": "@daily"}),
                jobs_pb2.ScheduleJobRequest(job={"name": "test"}), jobs_pb2.ScheduleJobRequest(job={"name": "test", "ttl": "3s"}),
            ):  # fmt: skip
                with pytest.raises(Refusal):
                    await one.sidecar.grpc("ScheduleJob", request)
            good = {
                "schedule": "@daily",
                "repeats": 1,
                "due_time": "0h0m9s0ms",
                "ttl": "20s",
                "data": {"value": b"\x00\xff"},
            }
            await one.schedule("test", **good)
            await one.delete("test")

    async def test_errors(self, beside) -> None:
        async with beside() as one:
            for request, reason in (
                (jobs_pb2.ScheduleJobRequest(), "DAPR_SCHEDULER_EMPTY"),
                (jobs_pb2.ScheduleJobRequest(job={"schedule": "@daily"}), "DAPR_SCHEDULER_JOB_NAME_EMPTY"),
                (jobs_pb2.ScheduleJobRequest(job={"name": "test"}), "DAPR_SCHEDULER_SCHEDULE_EMPTY"),
            ):
                with pytest.raises(Refusal) as caught:
                    await one.sidecar.grpc("ScheduleJob", request)
                assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
                assert caught.value.info is not None
                assert (caught.value.info.reason, caught.value.info.domain) == (reason, "dapr.io")

    async def test_http(self, beside) -> None:
        """What a gRPC caller schedules, as an HTTP app gets it."""
        rows = [
            (packed(wrappers_pb2.StringValue(value="hello world")), b"hello world"),
            (packed(wrappers_pb2.BytesValue(value=b"hello world")), b"hello world"),
            (packed(wrappers_pb2.Int64Value(value=123)), b"\x08\x7b"),
            (packed(Value(number_value=123)), b"123"),
            (packed(Value(bool_value=True)), b"true"),
            (packed(Value(string_value="true")), b'"true"'),
            (AnyMessage(value=b'{"expression": "val"}'), b'{"expression": "val"}'),
            (AnyMessage(type_url="type.googleapis.com/my.Ping", value=b"\x0a\x04pong\x10\x7b"), b"\x04pong\x10\x7b"),
        ]
        async with beside(HttpApp()) as one:
            for number, (data, _) in enumerate(rows):
                await one.schedule(f"test{number}", due_time="0s", data=data)
            await one.finished()
            assert {told.name: told.body for told in one.app.told} == {
                f"test{number}": body for number, (_, body) in enumerate(rows)
            }


@pytest.mark.parametrize("face", ["grpc", "http"])
class TestEitherFace:
    """Files that are in grpc/ and in http/."""

    async def schedule(self, one: Beside, face: str, name: str, **job: Any) -> bool:
        """Whether it was accepted."""
        if face == "http":
            answer = await one.sidecar.http("POST", f"/v1.0/jobs/{name}", job)
            assert answer.status in {204, 409, 500}
            return answer.status == 204
        try:
            await one.schedule(name, **job)
        except Refusal:
            return False
        return True

    async def test_crontz(self, beside, face: str) -> None:
        zone = ZoneInfo("Asia/Kathmandu")
        at = datetime.now(UTC) + timedelta(seconds=3)
        cron = at.astimezone(zone).strftime("%-S %-M %-H * * *")
        async with beside(HttpApp()) as one:
            assert await self.schedule(one, face, "there", schedule=f"CRON_TZ=Asia/Kathmandu {cron}")
            assert await self.schedule(one, face, "here", schedule=cron)
            assert not await self.schedule(one, face, "nowhere", schedule=f"CRON_TZ=Mars/Olympus {cron}")
            assert not await self.schedule(one, face, "every", schedule="CRON_TZ=Asia/Kathmandu @every 1s")
            await one.told(1)
            assert one.app.names == ["there"]
            await one.sidecar.grpc("DeleteJobsByPrefix", jobs_pb2.DeleteJobsByPrefixRequest())

    async def test_nodata(self, beside, face: str) -> None:
        for app in (GrpcApp(), HttpApp()):
            async with beside(app) as one:
                assert await self.schedule(one, face, "test", due_time="0s")
                told = (await one.told(1))[0]
                assert told.body == b""
                assert told.message is None or not told.message.HasField("data")
                await one.finished()

    async def test_overwrite(self, beside, face: str) -> None:
        async with beside() as one:
            assert await self.schedule(one, face, "test", schedule="@daily")
            before = await one.get("test")
            assert not await self.schedule(one, face, "test", schedule="@weekly")
            assert not await self.schedule(one, face, "test", schedule="@weekly", overwrite=False)
            assert await one.get("test") == before
            assert await self.schedule(one, face, "test", schedule="@monthly", overwrite=True)
            assert (await one.get("test")).schedule == "@monthly"
            await one.delete("test")

    async def test_metrics(self, beside, face: str, app_id: str) -> None:
        """success, notfound and failure: three takes, one 404, four failures."""
        statuses = {"good": 200, "missing": 404, "bad": 500}
        metrics = free_port()
        app = HttpApp(lambda told: statuses[told.name])
        policy: Any = {"constant": {"interval": {}, "max_retries": 3}}
        if face == "http":
            policy = {"constant": {"interval": "0s", "maxRetries": 3}}
        async with beside(app, enable_metrics=True, metrics_port=metrics) as one:
            assert await self.schedule(one, face, "good", schedule="@every 0s", repeats=3, due_time="0s")
            assert await self.schedule(one, face, "missing", due_time="0s")
            assert await self.schedule(one, face, "bad", due_time="0s", failure_policy=policy)
            await one.finished()
            text = (await asyncio.to_thread(http_call, metrics, "GET", "/")).body.decode()
            labels = f'{{app_id="{app_id}",namespace="",operation="job_trigger_op"'
            values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            assert float(values[f"dapr_component_job_success_count{labels}}}"]) == 3
            assert float(values[f"dapr_component_job_failure_count{labels}}}"]) == 5
            assert float(values[f'dapr_component_job_latencies_sum{labels},success="true"}}']) > 0


class TestHttp:
    """The directory http/."""

    async def test_api(self, beside) -> None:
        bodies = [
            "hello",
            '"quoted"',
            123,
            {"a": {"b": 1}},
            {"@type": "type.googleapis.com/google.type.Expr", "expression": "val"},
            None,
        ]
        async with beside(HttpApp()) as one:
            for number, data in enumerate(bodies):
                assert await one.post(f"test{number}", {"dueTime": "0s", "data": data}) == 204
            assert await one.post("spaced", b'{"dueTime": "0s", "data":  {  "a" :  1 } }') == 204
            await one.finished()
            got = {told.name: json.loads(told.body) for told in one.app.told}
            assert got == {**{f"test{number}": data for number, data in enumerate(bodies)}, "spaced": {"a": 1}}

    async def test_appapitoken(self, beside) -> None:
        async with beside(HttpApp(), app_api_token="abcdef") as one:
            assert await one.post("test", {"dueTime": "0s"}) == 204
            assert (await one.told(1))[0].metadata["dapr-api-token"] == "abcdef"

    async def test_basic(self, beside) -> None:
        async with beside() as one:
            for body in (b"", b"{}", b"[{}]", b'{"name":"test"}', b'{"schedule":"test","repeats":-1}'):
                assert await one.post("test", body) == 400
            for number, body in enumerate(
                (
                    {"schedule": "@daily"},
                    {"schedule": "@daily", "repeats": 1},
                    {"schedule": "@daily", "repeats": 1, "dueTime": "0h0m9s0ms", "ttl": "20s"},
                    {"schedule": "@daily", "repeats": 1, "data": "test"},
                )
            ):
                answer = await one.sidecar.http("POST", f"/v1.0-alpha1/jobs/test{number}", body)
                assert (answer.status, answer.body) == (204, b"")
            await one.sidecar.grpc("DeleteJobsByPrefix", jobs_pb2.DeleteJobsByPrefixRequest())

    async def test_errors(self, beside, app_id: str) -> None:
        async with beside() as one:
            for name, body, code, message in (
                ("test", {}, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"),
                ("%20", {"schedule": "@daily"}, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"),
                (
                    "test",
                    {"name": "test", "schedule": "@daily"},
                    "DAPR_SCHEDULER_JOB_NAME",
                    "Set the job name in the url only",
                ),
            ):
                answer = await one.sidecar.http("POST", f"/v1.0/jobs/{name}", body)
                (detail,) = answer.json["details"]
                assert (answer.status, answer.json["errorCode"], answer.json["message"]) == (400, code, message)
                assert (detail["reason"], detail["domain"], detail["metadata"]["appID"]) == (code, "dapr.io", app_id)
            assert (await one.sidecar.http("DELETE", "/v1.0/jobs/nope")).status == 204
            answer = await one.sidecar.http("GET", "/v1.0/jobs/nope")
            assert (answer.status, answer.json["errorCode"]) == (500, "DAPR_SCHEDULER_GET_JOB")
            assert "failed to get job" in answer.json["message"]

    async def test_fields(self, beside) -> None:
        policy = {"constant": {"interval": "3s", "max_retries": 5}}
        body = {
            "schedule": "@every 1m",
            "repeats": 123,
            "due_time": "1000s",
            "ttl": "123s",
            "data": "hello world",
            "failure_policy": policy,
        }
        async with beside() as one:
            assert await one.post("test", body) == 204
            assert await one.get("test") == jobs_pb2.Job(
                name="test", schedule="@every 1m", repeats=123, due_time="1000s", ttl="123s", data=packed(Value(string_value="hello world")),
                failure_policy={"constant": {"interval": {"seconds": 3}, "max_retries": 5}},
            )  # fmt: skip
            shown = (await one.sidecar.http("GET", "/v1.0/jobs/test")).json
            assert shown == {
                "name": "test", "schedule": "@every 1m", "repeats": 123, "dueTime": "1000s", "ttl": "123s",
                "data": {"@type": "type.googleapis.com/google.protobuf.Value", "value": "hello world"},
                "failurePolicy": {"constant": {"interval": "3s", "maxRetries": 5}},
            }  # fmt: skip
            await one.delete("test")

    async def test_grpc(self, beside) -> None:
        async with beside(GrpcApp()) as one:
            for data in ("hello", {"a": 1}, 123, None):
                assert await one.post("test", {"dueTime": "0s", "data": data}) == 204
                await one.finished()
                message = one.app.told[-1].message
                assert message is not None
                assert message.data == packed(ParseDict(data, Value()))
                assert (message.name, message.method, message.content_type) == (
                    "test",
                    "job/test",
                    message.data.type_url,
                )
                assert message.http_extension.verb == 3


async def test_healthz(beside) -> None:
    async with beside(
        HttpApp(), enable_app_health_check=True, app_health_probe_interval_s=0.2, app_health_probe_timeout_ms=200
    ) as one:
        await one.schedule("test", schedule="@every 1s", due_time="0s")
        await one.told(2)
        one.app.health = 500
        probes = one.app.probes
        await until(lambda: one.app.probes >= probes + 4)
        before = len(one.app.told)
        await asyncio.sleep(1.2)
        assert len(one.app.told) == before
        one.app.health = 200
        await one.told(before + 2)
        await one.delete("test")


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a#b", "a?b", "a\0b", "a\nb", "x" * 600], ids=repr)
async def test_invalidnames(beside, name: str) -> None:
    async with beside() as one:
        with pytest.raises(Refusal):
            await one.schedule(name, schedule="@daily")
        assert await one.names() == []


async def test_list(beside, app_id) -> None:
    async with beside() as one, beside(app_id=f"{app_id}-other") as other:
        for count in range(1, 4):
            await one.schedule(f"test{count}", schedule="@daily")
            assert (len(await one.names()), await other.names()) == (count, [])
        for count in range(3, 0, -1):
            await one.delete(f"test{count}")
            assert len(await one.names()) == count - 1


async def test_loadbalance_single(beside) -> None:
    apps = [HttpApp() for _ in range(3)]
    async with beside(apps[0]) as one, beside(apps[1]), beside(apps[2]):
        await one.schedule("test", schedule="@every 100ms")
        await until(lambda: all(app.told for app in apps), timeout_s=20)
        await one.delete("test")


async def test_noapp(beside) -> None:
    async with beside() as one:
        await one.schedule("test", due_time="0s")
        assert (await one.get("test")).due_time == "0s"
        await asyncio.sleep(1)
        assert await one.names() == ["test"]
        await one.delete("test")


async def test_precision(beside) -> None:
    async with beside(HttpApp()) as one:
        await one.schedule("slow", schedule="@every 1s", repeats=3)
        await one.schedule("quick", schedule="@every 1ms", repeats=5)
        await one.finished()
        for name, period_s, count in (("slow", 1.0, 3), ("quick", 0.001, 5)):
            times = [told.at for told in one.app.told if told.name == name]
            assert len(times) == count
            assert all(abs(later - earlier - period_s) < 0.5 for earlier, later in zip(times, times[1:], strict=False))


async def test_remove(beside, shared, app_id) -> None:
    def stored() -> int:
        return sum(app_id in key for key in shared.reader.range("/scheduler/jobs/"))

    async with beside(HttpApp()) as one:
        await one.schedule("test", schedule="@every 100ms")
        await one.told(3)
        assert await asyncio.to_thread(stored) == 1
        await one.delete("test")
        assert await asyncio.to_thread(stored) == 0


async def test_repeats(beside) -> None:
    async with beside(HttpApp()) as one:
        await one.schedule("ttl", schedule="@every 1s", ttl="3s")
        await one.schedule("twice", schedule="@every 1s", repeats=2)
        await one.finished()
        assert {name: one.app.names.count(name) for name in ("ttl", "twice")} == {"ttl": 3, "twice": 2}


async def test_streaming_staged(beside) -> None:
    """Jobs that are due while no sidecar of their app is connected wait for one."""
    async with beside() as one:
        for number in range(10):
            await one.schedule(f"test{number}", due_time="0s")
        await asyncio.sleep(0.3)
    async with beside(HttpApp()) as one:
        await one.finished()
        assert sorted(one.app.names) == sorted(f"test{number}" for number in range(10))


async def test_streaming_stream(beside) -> None:
    async with beside(HttpApp(), namespace="A") as one, beside(HttpApp(), namespace="B") as other:
        await one.schedule("test", due_time="0s", data={"value": b"a"})
        await other.schedule("test", due_time="0s", data={"value": b"b"})
        await one.finished()
        await other.finished()
        assert ([told.body for told in one.app.told], [told.body for told in other.app.told]) == ([b"a"], [b"b"])


async def test_scheduler_jobs_of_the_end_to_end_suite(beside) -> None:
    """e2e TestJobs: 40 jobs over 4 callers, all triggered; and the round trip of a body."""
    async with beside(HttpApp()) as one:
        began = time.monotonic()

        async def caller(start: int) -> None:
            for number in range(start, start + 10):
                assert await one.post(f"test{number}", {"dueTime": "0s", "data": {"value": {"value": number}}}) == 204

        async with asyncio.TaskGroup() as tasks:
            for start in range(0, 40, 10):
                tasks.create_task(caller(start))
        await one.finished(timeout_s=60)
        assert sorted(one.app.names) == sorted(f"test{number}" for number in range(40))
        assert time.monotonic() - began < 60
        assert await one.post("kept", {"schedule": "@daily", "data": {"value": {"value": 7}}}) == 204
        assert (await one.sidecar.http("GET", "/v1.0/jobs/kept")).json["data"]["value"]["value"]["value"] == 7
        await one.delete("kept")


async def test_metadata_scheduler_none_and_one(beside, shared) -> None:
    async with running_sidecar() as alone:
        answer = await alone.grpc("GetMetadata", dapr_pb2.GetMetadataRequest())
        assert not dapr_pb2.GetMetadataResponse.FromString(answer).HasField("scheduler")
        with pytest.raises(Refusal, match="disabled"):
            await alone.grpc("ScheduleJob", jobs_pb2.ScheduleJobRequest(job={"name": "a", "due_time": "1s"}))
        assert await alone.grpc("GetMetadata", dapr_pb2.GetMetadataRequest()) == answer
    async with beside() as one:
        answer = dapr_pb2.GetMetadataResponse.FromString(
            await one.sidecar.grpc("GetMetadata", dapr_pb2.GetMetadataRequest())
        )
        assert list(answer.scheduler.connected_addresses) == shared.addresses
