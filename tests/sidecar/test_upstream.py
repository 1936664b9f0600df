"""The connections to the schedulers (sidecar-and-jobs-api.md 4), against schedulers that behave on the wire as the reference's do."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Self

import grpc
import pytest

from scheduler._pb.dapr.proto.runtime.v1 import jobs_pb2
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2.grpc import RpcError, Status
from scheduler.upstream.repeats import Done, identity_of
from scheduler.upstream.schedulers import NoScheduler, Schedulers
from scheduler.upstream.stream import Session, result_message
from tests.support.apps import HttpApp
from tests.support.processes import free_port
from tests.support.reference import ReferenceScheduler
from tests.support.sidecars import Refusal, running_sidecar, until

JOB = jobs_pb2.ScheduleJobRequest(job=jobs_pb2.Job(name="a", due_time="1s"))


@pytest.fixture
def three() -> Iterator[list[ReferenceScheduler]]:
    many = [ReferenceScheduler() for _ in range(3)]
    hosts = [one.address for one in many]
    for one in many:
        one.hosts = hosts
    yield many
    for one in many:
        one.close()


@pytest.fixture
def app() -> Iterator[HttpApp]:
    one = HttpApp()
    yield one
    one.close()


class Silent:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.taken: list[tuple[Session, pb.WatchJobsResponse]] = []
        self.gone: list[Session] = []

    def take(self, session: Session, message: bytes) -> None:
        self.taken.append((session, pb.WatchJobsResponse.FromString(message)))

    def lost(self, session: Session) -> None:
        self.gone.append(session)


class Running:
    """The room alone."""

    def __init__(self, *addresses: str, streams: int = 3) -> None:
        self.receiver = Silent()
        self.schedulers = Schedulers(
            addresses=addresses, streams_per_host=streams, receiver=self.receiver, rng=random.Random(1)
        )

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.schedulers.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def watch(self) -> None:
        initial = pb.WatchJobsRequestInitial(app_id="x", namespace="default", accept_job_types=[0])
        self.schedulers.watch(pb.WatchJobsRequest(initial=initial).SerializeToString())

    async def call(self, method: str = "ListJobs", timeout_s: float = 5.0, *, wait: bool = True) -> bytes:
        return await self.schedulers.call(method, pb.ListJobsRequest(), wait_for_ready=wait, timeout_s=timeout_s)


async def test_three_streams_a_host_each_on_its_own_connection(three, app) -> None:
    """4.3, 4.4: one configured address leads to all; the first message says who we are and what we take."""
    async with running_sidecar(three[1].address, app_port=app.port, namespace="ns") as sidecar:
        await until(lambda: all(len(one.open) == 3 for one in three))
        for one in three:
            assert len({stream.peer for stream in one.open}) == 3
            for stream in one.open:
                assert (stream.initial.app_id, stream.initial.namespace) == ("myapp", "ns")
                assert list(stream.initial.accept_job_types) == [pb.JOB_TARGET_TYPE_JOB]
                assert not stream.initial.actor_types
                assert not stream.initial.concurrency_limits
        assert [one.host_watches for one in three] == [0, 1, 0]
        shown = (await sidecar.http("GET", "/v1.0/metadata")).json["scheduler"]["connected_addresses"]
        assert shown == [one.address for one in three]
        for _ in range(6):
            await sidecar.grpc("ScheduleJob", JOB)
        assert [len(one.calls) for one in three] == [2, 2, 2]
    assert not any(one.open for one in three)


async def test_a_list_that_is_repeated_disturbs_nothing(three) -> None:
    """W30's other side: in another order, again and again, on one watch."""
    async with Running(three[0].address) as running:
        running.watch()
        await until(lambda: all(len(one.open) == 3 for one in three))
        hosts = three[0].hosts
        for _ in range(5):
            three[0].tell_hosts(hosts)
            three[0].tell_hosts(hosts[::-1])
        three[0].tell_hosts([*hosts[:2]])
        await until(lambda: len(running.schedulers.hosts) == 2)
        assert [len(one.streams) for one in three] == [3, 3, 3]
        assert [len(one.open) for one in three[:2]] == [3, 3]
        await until(lambda: not three[2].open)
        three[0].tell_hosts(hosts)
        await until(lambda: len(three[2].open) == 3)
        assert [len(one.streams) for one in three] == [3, 3, 6]
        assert three[0].host_watches == 1


async def test_a_host_that_goes_is_looked_past_and_one_that_comes_is_found(three) -> None:
    """The scheduler that we were given may die too: the others know the list."""
    async with Running(three[0].address) as running:
        running.watch()
        await until(lambda: all(len(one.open) == 3 for one in three))
        three[0].stop()
        for one in three[1:]:
            one.hosts = [three[1].address, three[2].address]
        await until(lambda: len(running.schedulers.hosts) == 2)
        assert [len(one.streams) for one in three[1:]] == [3, 3]
        hosts = [one.address for one in three]
        three[0].start()
        for one in three:
            one.hosts = hosts
        three[1].tell_hosts()
        three[2].tell_hosts()
        await until(lambda: len(three[0].open) == 3)
        assert [len(one.streams) for one in three[1:]] == [3, 3]


async def test_a_scheduler_without_watch_hosts_is_used_as_configured(app) -> None:
    """4.2.2: UNIMPLEMENTED means a scheduler from before 1.15."""
    old = ReferenceScheduler(knows_hosts=False)
    try:
        async with running_sidecar(old.address, app_port=app.port) as sidecar:
            await until(lambda: len(old.open) == 3)
            await sidecar.grpc("ScheduleJob", JOB)
            old.open[0].send("hello")
            await asyncio.to_thread(app.wait, 1)
    finally:
        old.close()


async def test_watch_hosts_recovers(reference) -> None:
    """The reference's test: the first watches fail with UNAVAILABLE, then the sidecar is ready and schedules."""
    reference.fail_watches = 2
    async with running_sidecar(reference.address) as sidecar:
        assert reference.host_watches == 3
        await sidecar.grpc("ScheduleJob", JOB)


async def test_a_list_that_makes_no_sense_is_left(reference) -> None:
    async with Running(reference.address) as running:
        await until(lambda: running.schedulers.hosts == (reference.address,))
        reference.tell_hosts(["nowhere"])
        reference.hosts = [reference.address]
        await until(lambda: reference.host_watches == 2)
        assert running.schedulers.hosts == (reference.address,)
        await running.call()


async def test_calls_go_round_and_leaving_schedulers_are_passed_by(three) -> None:
    """4.3 and 2.3: the next connection for each call; CANCELLED is tried on the next, nothing else is."""
    async with Running(three[0].address) as running:
        await until(lambda: running.schedulers.hosts)
        for _ in range(9):
            await running.call()
        assert Counter(len(one.calls) for one in three) == {3: 3}
        for one in three:
            one.calls.clear()
        for one in three[:2]:
            one.answers["ListJobs"] = lambda _data: (grpc.StatusCode.CANCELLED, "leaving")
        for _ in range(3):
            await running.call()
        assert len(three[2].calls) == 3
        assert len(three[0].calls) + len(three[1].calls) >= 3
        for one in three:
            one.calls.clear()
            one.answers["ListJobs"] = lambda _data: (grpc.StatusCode.UNAVAILABLE, "no quorum")
        with pytest.raises(RpcError, match="no quorum"):
            await running.call()
        assert sum(len(one.calls) for one in three) == 1
        for one in three:
            one.answers["ListJobs"] = lambda _data: (grpc.StatusCode.CANCELLED, "leaving")
        with pytest.raises(RpcError, match="leaving"):
            await running.call(timeout_s=1.0)


async def test_a_list_without_a_hung_host_frees_its_calls(three) -> None:
    """The reference's unit test: a reload never blocks on hung calls, and those go on elsewhere."""
    release = threading.Event()
    three[0].answers["ListJobs"] = lambda _data: release.wait(20) and b""
    async with Running(three[1].address) as running:
        await until(lambda: running.schedulers.hosts)
        calls = [asyncio.ensure_future(running.call(timeout_s=15)) for _ in range(3)]
        await until(lambda: sum(call.done() for call in calls) == 2)
        three[1].tell_hosts([one.address for one in three[1:]])
        async with asyncio.timeout(10):
            for call in calls:
                await call
        release.set()


async def test_calls_wait_for_a_scheduler_or_fail_at_once() -> None:
    """2.3's table: Schedule, Get and Delete wait, List and prefix deletes do not; both give up in time."""
    address = f"127.0.0.1:{free_port()}"
    leader = ReferenceScheduler(hosts=[address])
    async with Running(leader.address) as running:
        await until(lambda: running.schedulers.hosts)
        with pytest.raises(RpcError) as caught:
            await running.call(wait=False)
        assert caught.value.status is Status.UNAVAILABLE
        with pytest.raises(RpcError) as caught:
            await running.call(wait=True, timeout_s=0.3)
        assert caught.value.status is Status.DEADLINE_EXCEEDED
        waiting = asyncio.ensure_future(running.call(wait=True, timeout_s=10))
        await asyncio.sleep(0)
        late = ReferenceScheduler()
        late.stop()
        late.address, late.port = address, int(address.rpartition(":")[2])
        late.start()
        assert await waiting == b""
        late.close()
    leader.close()
    async with Running(f"127.0.0.1:{free_port()}") as running:
        with pytest.raises(NoScheduler, match="context deadline exceeded"):
            await running.call(timeout_s=0.2)


async def test_lists_and_prefix_deletes_fail_fast(reference) -> None:
    reference.hosts = [f"127.0.0.1:{free_port()}"]
    async with running_sidecar(reference.address) as sidecar:
        for method, request in (
            ("ListJobs", jobs_pb2.ListJobsRequest()),
            ("DeleteJobsByPrefix", jobs_pb2.DeleteJobsByPrefixRequest()),
        ):
            async with asyncio.timeout(30):
                with pytest.raises(Refusal, match="Unavailable"):
                    await sidecar.grpc(method, request)


async def test_each_stream_comes_back_by_itself(three) -> None:
    """4.4: a stream that ends is opened again within a second; its siblings and other hosts do not notice."""
    async with Running(three[0].address) as running:
        running.watch()
        await until(lambda: all(len(one.open) == 3 for one in three))
        victim, others = three[0].open[0], three[0].open[1:]
        victim.end()
        await until(lambda: len(three[0].streams) == 4 and len(three[0].open) == 3)
        assert all(not stream.ended.is_set() for stream in others)
        assert len(running.receiver.gone) == 1
        three[1].stop()
        await until(lambda: len(running.receiver.gone) == 4)
        assert [len(three[0].open), len(three[2].open)] == [3, 3]
        three[1].start()
        await until(lambda: len(three[1].open) == 3)
        running.schedulers.watch(None)
        await until(lambda: not any(one.open for one in three) and len(running.receiver.gone) == 13)


async def test_answers_of_one_turn_leave_together_and_in_order(reference) -> None:
    async with Running(reference.address, streams=1) as running:
        running.watch()
        await until(lambda: reference.open)
        stream = reference.open[0]
        ids = [stream.send(f"j{number}") for number in range(300)]
        await until(lambda: len(running.receiver.taken) == 300)
        session = running.receiver.taken[0][0]
        sent: list[bytes] = []
        send_framed = session._call.connection.send_data
        session._call.connection.send_data = lambda one, data: (sent.append(data), send_framed(one, data))
        for number in reversed(ids):
            session.acknowledge(number, succeeded=number % 3 > 0)
        await until(lambda: len(stream.results) == 300)
        assert len(sent) == 1
        assert stream.results == [(number, int(number % 3 == 0)) for number in reversed(ids)]


async def test_answers_given_just_before_the_end_arrive(reference) -> None:
    async with Running(reference.address, streams=1) as running:
        running.watch()
        await until(lambda: reference.open)
        stream = reference.open[0]
        stream.send("last")
        await until(lambda: running.receiver.taken)
        session, trigger = running.receiver.taken[0]
        session.acknowledge(trigger.id, succeeded=True)
    assert stream.results == [(trigger.id, 0)]
    session.acknowledge(trigger.id, succeeded=True)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize("succeeded", [True, False])
def test_results_are_protobuf(number: int, succeeded: bool) -> None:
    status = pb.SUCCESS if succeeded else pb.FAILED
    result = pb.WatchJobsRequestResult(id=number, status=status)
    assert pb.WatchJobsRequest.FromString(result_message(number, succeeded=succeeded)) == pb.WatchJobsRequest(
        result=result
    )


def test_only_the_last_occurrences_are_remembered() -> None:
    done = Done(size=3)
    for number in (1, 2, 3, 2, 4):
        done.add(("job", 7, number))
    done.add(None)
    assert [number for number in range(1, 5) if ("job", 7, number) in done] == [2, 3, 4]
    assert None not in done
    assert identity_of(pb.WatchJobsResponse(name="job")) is None
