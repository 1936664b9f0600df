"""What one request may cost: inputs whose size alone would occupy a replica are refused, or answered without asking etcd."""

import asyncio
import random
import time
from types import SimpleNamespace

import pytest

from scheduler._pb.dapr.proto.common.v1 import common_pb2 as common
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.aio.clock import SystemClock
from scheduler.core.errors import InvalidJob
from scheduler.http2.grpc import RpcError, Status
from scheduler.metrics import RpcStatistics
from scheduler.rpc import watch as watch_module
from scheduler.rpc.authz import Authorizer
from scheduler.rpc.jobs import LISTS_AT_ONCE, SERVICE, Jobs, record_of
from scheduler.rpc.watch import ACTOR_TYPES_MAX, LIMITS_MAX, Watch
from scheduler.store import codec
from scheduler.store.errors import StoreBusy, StoreUnavailable
from scheduler.store.jobs import QUEUE_MAX_BYTES, JobStore
from scheduler.store.keys import Keys
from tests.support.client import actor_metadata, job_metadata

NOW = 1_700_000_000 * 10**9
CALL = SimpleNamespace(deadline=None, peer=SimpleNamespace(attributes={}, chain=()))


def authorizer() -> Authorizer:
    return Authorizer(tls=False, trust_domains=frozenset(), clock=SystemClock(), statistics=RpcStatistics())


@pytest.fixture
def watch() -> Watch:
    return Watch(hub=None, authorizer=authorizer(), statistics=RpcStatistics())  # type: ignore[arg-type]


def refused(function, *arguments) -> str:
    with pytest.raises(RpcError) as caught:
        function(*arguments)
    assert caught.value.status is Status.INVALID_ARGUMENT
    return caught.value.message


def initial(**fields) -> pb.WatchJobsRequestInitial:
    return pb.WatchJobsRequestInitial(app_id="app", namespace="default", **fields)


def test_many_accepted_types_are_looked_at_in_no_time(watch: Watch) -> None:
    """The check for duplicates once compared each with each: a first message of a few hundred kilobytes stopped the replica for minutes."""
    kinds = [pb.JOB_TARGET_TYPE_JOB, *range(2, 200_000)]
    started = time.process_time()
    assert watch.targets(CALL, initial(accept_job_types=kinds)) == ["app||default||app"]
    with pytest.raises(RpcError, match="duplicate target type specified: 199999"):
        watch.targets(CALL, initial(accept_job_types=[*kinds, 199_999]))
    assert time.process_time() - started < 10


def test_actor_types_and_limits_have_a_number_and_a_length(watch: Watch) -> None:
    types = [f"t{number}" for number in range(ACTOR_TYPES_MAX)]
    assert len(watch.targets(CALL, initial(actor_types=types))) == ACTOR_TYPES_MAX + 1
    assert f"at most {ACTOR_TYPES_MAX}" in refused(watch.targets, CALL, initial(actor_types=[*types, "more"]))
    assert "actor_types" in refused(watch.targets, CALL, initial(actor_types=["t" * 512]))
    long = pb.WatchJobsRequestInitial(app_id="a" * 512, namespace="default")
    assert "app_id" in refused(watch.targets, CALL, long)
    limit = pb.ConcurrencyLimit(max_concurrent=1, actor=pb.ConcurrencyLimitActor(type="t"))
    assert len(watch.limits(initial(concurrency_limits=[limit] * LIMITS_MAX))) == LIMITS_MAX
    assert f"at most {LIMITS_MAX}" in refused(watch.limits, initial(concurrency_limits=[limit] * (LIMITS_MAX + 1)))
    limit.name = "n" * 512
    assert "concurrency_limits" in refused(watch.limits, initial(concurrency_limits=[limit]))


async def test_prefixes_that_no_name_can_have_are_answered_without_etcd() -> None:
    """A prefix stands once per partition in the request to etcd: one of a megabyte would be 128 of them."""
    statistics = RpcStatistics()
    jobs = Jobs(
        store=None,  # type: ignore[arg-type]
        authorizer=authorizer(),
        clock=SystemClock(),
        statistics=statistics,
        leaving=lambda: False,
    )
    for metadata in (job_metadata("a" * 512), actor_metadata("t" * 512, ""), actor_metadata("t", "i" * 512)):
        assert await jobs._list(pb.ListJobsRequest(metadata=metadata).SerializeToString(), CALL) == b""
    request = pb.DeleteByNamePrefixRequest(metadata=job_metadata(), name_prefix="n" * 512)
    assert await jobs._delete_by_name_prefix(request.SerializeToString(), CALL) == b""
    assert statistics.bulk_deleted == 1
    assert f"/{SERVICE}/ListJobs" in jobs.methods()


@pytest.mark.parametrize("due_time", ["PT999999999999999999H", "PT" + "999999999999999999H" * 40, "P99999999Y"])
def test_times_beyond_all_calendars_are_refused_by_name(due_time: str) -> None:
    request = pb.ScheduleJobRequest(name="x", job=pb.Job(due_time=due_time), metadata=job_metadata())
    with pytest.raises(InvalidJob, match="due time format not recognized"):
        record_of(request, NOW)


def test_policies_are_shared_only_where_they_are_small() -> None:
    codec._policies.clear()
    policy = common.JobFailurePolicy(drop=common.JobFailurePolicyDrop()).SerializeToString()
    unknown_field = b"\x7a\x84\x80\x80\x00" + b"x" * 4  # field 15, for whoever comes after us
    for number in range(2_500):
        codec._policy_of(
            common.JobFailurePolicy(constant=common.JobFailurePolicyConstant(max_retries=number)).SerializeToString()
        )
        codec._policy_of(policy + unknown_field * (100 + number % 5))
    assert len(codec._policies) <= 1_000
    assert max(map(len, codec._policies)) <= 64


async def test_writes_that_etcd_does_not_take_in_time_have_a_bound() -> None:
    """Nobody runs the store here: what is put stays queued, until the bound; then the answer comes at once and says what to do."""
    store = JobStore(etcd=None, keys=Keys(), partition_count=128, rng=random.Random(1))  # type: ignore[arg-type]
    answers: list = []
    record = JobRecord(trigger=b"x" * (1 << 20))
    for number in range(QUEUE_MAX_BYTES >> 20):
        store.put(f"app||n||a||{number}", record, overwrite=True, done=answers.append)
    assert [type(answer) for answer in answers] == [StoreBusy]
    assert "try again later" in str(answers[0])
    store._fail_queued(StoreUnavailable("shut down"))
    assert len(answers) == QUEUE_MAX_BYTES >> 20
    store.put("app||n||a||again", record, overwrite=True, done=answers.append)
    assert len(answers) == QUEUE_MAX_BYTES >> 20, "there is room again"
    await asyncio.sleep(0)


def stream_call(ended: list[tuple]) -> SimpleNamespace:
    """A call that notes how it is ended."""
    shell = SimpleNamespace(loop=asyncio.get_running_loop())
    return SimpleNamespace(**vars(CALL), shell=shell, start=lambda: None, finish=lambda *end: ended.append(end))


async def test_a_stream_that_says_nothing_is_ended_and_counted(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a connection for nothing; ten seconds are enough for a first message (the reference waits for ever)."""
    assert watch_module.FIRST_MESSAGE_TIMEOUT_S == 10
    monkeypatch.setattr(watch_module, "FIRST_MESSAGE_TIMEOUT_S", 0.01)
    ended: list[tuple] = []
    stream = watch_module._JobWatch(stream_call(ended), watch)
    await asyncio.sleep(0.1)
    assert [status for status, _ in ended] == [Status.DEADLINE_EXCEEDED]
    assert "no initial request" in ended[0][1]
    assert watch.statistics.sidecar_errors["recv_failed"] == 1
    stream.on_closed(None)
    assert not watch.open


async def test_all_streams_together_have_a_bound(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What streams declare costs memory; one tenant's streams must not take all of it. What a stream leaves is free again."""
    monkeypatch.setattr(watch_module, "DECLARED_MAX", 5)
    watch.hub = SimpleNamespace(attach=lambda *_: object(), detach=lambda _: None)  # type: ignore[assignment]
    message = pb.WatchJobsRequest(initial=initial(actor_types=["t"])).SerializeToString()
    ended: list[tuple] = []

    def open_stream() -> watch_module._JobWatch:
        stream = watch_module._JobWatch(stream_call(ended), watch)
        stream.on_message(message)
        return stream

    streams = [open_stream() for _ in range(3)]
    assert [(status, "at most 5" in text) for status, text in ended] == [(Status.RESOURCE_EXHAUSTED, True)]
    assert watch.statistics.sidecar_errors["recv_failed"] == 1
    for stream in streams[1:]:
        stream.on_closed(None)
    streams[1:] = [open_stream()]
    assert len(ended) == 1
    for stream in streams:
        stream.on_closed(None)
    assert watch.declared == 0


async def test_lists_take_turns() -> None:
    """A hundred lists at once: eight are read at a time, each in its turn, and one that waits too long says why."""
    reading: list[int] = []
    most = 0

    class Store:
        async def list(self, _prefix: str, *, timeout_s: float) -> list:
            nonlocal most
            reading.append(1)
            most = max(most, len(reading))
            await asyncio.sleep(0.001)
            reading.pop()
            return []

    jobs = Jobs(store=Store(), authorizer=authorizer(), clock=SystemClock(), statistics=RpcStatistics(), leaving=lambda: False)  # type: ignore[arg-type]  # fmt: skip
    request = pb.ListJobsRequest(metadata=job_metadata()).SerializeToString()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(100):
            tasks.create_task(jobs._list(request, CALL))
    assert most == LISTS_AT_ONCE
    loop = asyncio.get_running_loop()
    hurried = SimpleNamespace(**{**vars(CALL), "deadline": loop.time() + 0.01}, shell=SimpleNamespace(loop=loop))
    for _ in range(LISTS_AT_ONCE):
        await jobs._lists.acquire()
    with pytest.raises(RpcError, match="try again later") as caught:
        await jobs._list(request, hurried)
    assert caught.value.status is Status.RESOURCE_EXHAUSTED
