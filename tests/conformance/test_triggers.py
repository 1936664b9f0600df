"""Lines failurepolicy/*, staging/*, unknownack and metrics/goroutines of section 9 (scheduler-service.md)."""

import threading
import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from scheduler._pb.dapr.proto.common.v1 import common_pb2 as common
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conformance.conftest import Deployment
from tests.support.client import SERVICE, Hit

pytestmark = pytest.mark.e2e
DROP = common.JobFailurePolicy(drop=common.JobFailurePolicyDrop())


def constant(interval_s: float | None = None, max_retries: int | None = None) -> common.JobFailurePolicy:
    interval = None if interval_s is None else Duration(nanos=int(interval_s * 1e9) % 10**9, seconds=int(interval_s))
    return common.JobFailurePolicy(constant=common.JobFailurePolicyConstant(interval=interval, max_retries=max_retries))


def finished(deployment: Deployment) -> bool:
    return deployment.client.list(deployment.job()) == []


def test_failurepolicy_constant_interval(deployment: Deployment) -> None:
    """An interval of 3 s without a limit: no second delivery within it, and always another."""
    watcher = deployment.watch(verdict=lambda _hit: pb.FAILED)
    deployment.schedule("x", due_time="0s", failure_policy=constant(3))
    deployment.wait(lambda: len(watcher.hits) == 3, "three deliveries", 15)
    first, second, third = (hit.at_ns for hit in watcher.hits)
    assert second - first > 2.9e9
    assert third - second > 2.9e9
    assert [hit.attempt for hit in watcher.hits] == [0, 1, 2]
    deployment.client.delete("x", deployment.job())


def test_failurepolicy_constant_maxretries(deployment: Deployment) -> None:
    """Four retries without an interval: five deliveries, then the job is gone."""
    watcher = deployment.watch(verdict=lambda _hit: pb.FAILED)
    deployment.schedule("x", due_time="0s", failure_policy=constant(max_retries=4))
    deployment.wait(lambda: finished(deployment), "the job is given up")
    assert [hit.attempt for hit in watcher.hits] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("verdict", [pb.FAILED, pb.SUCCESS], ids=["failed", "success"])
def test_failurepolicy_drop(deployment: Deployment, verdict: int) -> None:
    """One delivery, whatever the app says."""
    watcher = deployment.watch(verdict=lambda _hit: verdict)
    deployment.schedule("x", due_time="0s", failure_policy=DROP)
    deployment.wait(lambda: watcher.hits and finished(deployment), "the job is gone")
    assert len(watcher.hits) == 1


@pytest.mark.parametrize(
    ("successful", "deliveries"),
    [(None, 4), (1, 2), (2, 3), (3, 4)],
    ids=["allfail", "failfirst", "failsecond", "failthird"],
)
def test_failurepolicy_noset(deployment: Deployment, successful: int | None, deliveries: int) -> None:
    """The default: three retries, a second apart; a success ends it."""
    watcher = deployment.watch(verdict=lambda hit: pb.SUCCESS if hit.attempt == successful else pb.FAILED)
    deployment.schedule("x", due_time="0s")
    deployment.wait(lambda: finished(deployment), "the job is gone")
    assert [hit.attempt for hit in watcher.hits] == list(range(deliveries))
    gaps = [(b.at_ns - a.at_ns) / 1e9 for a, b in zip(watcher.hits, watcher.hits[1:], strict=False)]
    assert all(gap > 0.95 for gap in gaps), gaps


def test_slow_failures_do_not_use_retries_up_without_a_pause(still: Deployment) -> None:
    """W13: the interval counts from the answer, not from the planned time."""
    answered: list[int] = []

    def slow(_hit: Hit) -> int:
        threading.Event().wait(0.8)  # the app works on it for longer than the interval
        answered.append(time.time_ns())
        return pb.FAILED

    watcher = still.watch(verdict=slow)
    still.schedule("x", due_time="0s", failure_policy=constant(0.5, 2))
    still.wait(lambda: finished(still), "the job is given up")
    assert all(hit.at_ns - before >= 0.49e9 for before, hit in zip(answered, watcher.hits[1:], strict=False))
    assert len(watcher.hits) == 3


def test_staging_durable(deployment: Deployment) -> None:
    """Forty due jobs wait without a watcher; then each fires exactly once."""
    names = {f"j{number}" for number in range(40)}
    before = deployment.metric("dapr_scheduler_jobs_undelivered_total", type="job")
    deployment.schedule(*sorted(names), due_time="0s")
    deployment.wait(
        lambda: (
            deployment.metric("scheduler_triggers_waiting") >= 40
            or deployment.metric("dapr_scheduler_jobs_undelivered_total", type="job") >= before + 40
        ),
        "all are staged",
    )
    assert len(deployment.client.list(deployment.job())) == 40
    watcher = deployment.watch()
    deployment.wait(lambda: {hit.name for hit in watcher.hits} == names and finished(deployment), "all have fired")
    assert len(watcher.hits) == 40


@pytest.mark.parametrize("count", [1, 5], ids=["single", "multiple"])
def test_staging(deployment: Deployment, count: int) -> None:
    """Only the connecting app's staged jobs fire."""
    for app in ("a", "b"):
        deployment.schedule(*(f"{app}{number}" for number in range(count)), metadata=deployment.job(app), due_time="0s")
    watcher = deployment.watch("a")
    deployment.wait(lambda: len(watcher.hits) >= count, "the staged jobs")
    deployment.sentinels(20)
    assert {hit.name for hit in watcher.hits} == {f"a{number}" for number in range(count)}
    assert len(deployment.client.list(deployment.job("b"))) == count


@pytest.mark.parametrize("kind", ["jobs", "actors"])
def test_staging_reconnect(deployment: Deployment, kind: str) -> None:
    """A recurring job pauses while nobody is connected and goes on, with what was missed, in order, on the new stream."""
    metadata = deployment.job() if kind == "jobs" else deployment.actor("kind", "id")
    types = () if kind == "jobs" else ("kind",)
    first = deployment.watch(actor_types=types)
    deployment.schedule("x", metadata=metadata, schedule="@every 1s")
    deployment.wait(lambda: len(first.hits) >= 2, "two triggers")
    first.close()
    seen = len(first.hits)
    missed_from = time.time_ns()
    deployment.wait(lambda: time.time_ns() - missed_from > 2.2e9, "two occurrences are missed")
    second = deployment.watch(actor_types=types)
    deployment.wait(lambda: len(second.hits) >= 4, "four triggers")
    assert len(first.hits) == seen
    indexes = [hit.index for hit in second.hits[:4]]
    # The trigger that was in flight when the first stream closed may come again.
    assert indexes == list(range(indexes[0], indexes[0] + 4))
    assert indexes[0] in {seen - 1, seen}
    deployment.client.delete("x", metadata)


def test_unknownack(still: Deployment) -> None:
    """Made-up and repeated answers are ignored, the stream stays usable, and jobs that are done leave etcd."""
    watcher = still.watch(verdict=lambda _hit: None)

    def answer(hit: Hit, number: int) -> None:
        result = pb.WatchJobsRequestResult(id=number, status=pb.SUCCESS)
        hit.outgoing.put(pb.WatchJobsRequest(result=result))

    still.schedule("a", due_time="0s")
    still.wait(lambda: watcher.hits, "a")
    for number in (0, 999, 1 << 63, (1 << 64) - 1):
        answer(watcher.hits[0], number)
    still.schedule("b", due_time="0s")
    still.wait(lambda: len(watcher.hits) == 2, "b comes on the same stream")
    for hit in list(watcher.hits):
        hit.answer()
        hit.answer()
        hit.answer(pb.FAILED)
    still.wait(lambda: finished(still), "both are done")
    assert len(watcher.hits) == 2
    assert not watcher.errors


def test_an_unknown_status_is_a_failure_and_loses_nothing(still: Deployment) -> None:
    """W9."""
    watcher = still.watch(verdict=lambda hit: 7 if hit.attempt == 0 else pb.SUCCESS)
    still.schedule("x", due_time="0s", failure_policy=constant(0.1))
    still.wait(lambda: finished(still), "the job is done")
    assert [hit.attempt for hit in watcher.hits] == [0, 1]
    assert not watcher.errors


def test_a_missing_result_ends_only_that_stream(still: Deployment) -> None:
    watcher, other = still.watch(verdict=lambda _hit: None), still.watch("other")
    still.schedule("x", due_time="0s")
    still.wait(lambda: watcher.hits, "a trigger")
    watcher.hits[0].outgoing.put(pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="n")))
    still.wait(lambda: watcher.errors, "the stream is closed")
    still.wait(lambda: len(watcher.hits) >= 2, "its trigger comes again on the next stream")
    watcher.hits[1].answer()
    assert not other.errors


@pytest.mark.parametrize(
    ("first", "status", "text"),
    [
        (pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=1)), grpc.StatusCode.UNKNOWN, "initial request is required on stream connection"),
        (pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="a")), grpc.StatusCode.INVALID_ARGUMENT, "missing namespace or appID in request"),
        (
            pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="a", namespace="n", accept_job_types=[0, 0])),
            grpc.StatusCode.UNKNOWN,
            "duplicate target type specified: JOB_TARGET_TYPE_JOB",
        ),
        (
            pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="a", namespace="n", accept_job_types=[1])),
            grpc.StatusCode.INVALID_ARGUMENT,
            "the stream takes nothing",
        ),
    ],
    ids=["result first", "no namespace", "duplicate type", "W2: nothing to take"],
)  # fmt: skip
def test_a_bad_first_message_ends_that_stream_alone(
    still: Deployment, first: pb.WatchJobsRequest, status: grpc.StatusCode, text: str
) -> None:
    watcher = still.watch()
    with grpc.insecure_channel(still.home.address) as channel:
        rpc = channel.stream_stream(
            f"{SERVICE}/WatchJobs", request_serializer=lambda message: message.SerializeToString()
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(rpc(iter([first]), timeout=10))
    assert caught.value.code() is status
    assert text in caught.value.details()
    still.schedule("x", due_time="0s")
    still.wait(lambda: watcher.hits, "others are served")
    assert not watcher.errors


def test_goroutines(deployment: Deployment) -> None:
    """metrics/goroutines.go, W8: `@every 0s` with repeats 2, fifty times: all fire, each twice, and nothing is left."""
    watcher = deployment.watch()
    deployment.schedule(*(f"j{number}" for number in range(50)), schedule="@every 0s", repeats=2)
    deployment.wait(lambda: finished(deployment), "all are finished")
    assert sorted((hit.name, hit.index) for hit in watcher.hits) == sorted(
        (f"j{n}", index) for n in range(50) for index in range(2)
    )


def test_overwriting_a_job_in_flight(still: Deployment) -> None:
    """The old generation's late answer is ignored, the new one runs by its own schedule (1.6, W4)."""
    watcher = still.watch(verdict=lambda _hit: None)
    still.schedule("x", schedule="@every 1h", due_time="0s")
    still.wait(lambda: watcher.hits, "the old one")
    still.schedule("x", due_time="0s", overwrite=True)
    still.wait(lambda: len(watcher.hits) == 2, "the new one")
    old, new = watcher.hits
    assert old.generation != new.generation
    old.answer(pb.FAILED)
    new.answer()
    still.wait(lambda: finished(still), "the new one is done")
    still.sentinels(10)
    assert len(watcher.hits) == 2


def test_deleting_a_job_in_flight_and_one_that_waits(still: Deployment) -> None:
    """W4, W16: late answers are no-ops; what waits when it is deleted is never sent."""
    still.schedule("waits", due_time="0s", metadata=still.job("later"))
    watcher = still.watch(verdict=lambda _hit: None)
    still.schedule("flies", schedule="@every 1s")
    still.wait(lambda: watcher.hits, "a trigger")
    still.client.delete("flies", still.job())
    still.client.delete("waits", still.job("later"))
    # By then their owner has heard of it (G8).
    still.sentinels(10)
    watcher.hits[0].answer()
    still.sentinels(10)
    later = still.watch("later")
    still.sentinels(10)
    assert (len(watcher.hits), later.hits) == (1, [])


def test_due_jobs_of_an_unregistered_actor_type_wait_quietly(still: Deployment) -> None:
    """W8: an actor type that merely begins like a registered one is not retried in a loop."""
    watcher = still.watch(actor_types=("a",))
    before = still.metric("scheduler_triggers_undeliverable_total", type="actor")
    still.schedule("x", metadata=still.actor("a||b", "id"), due_time="0s")
    still.wait(lambda: still.metric("scheduler_triggers_undeliverable_total", type="actor") > before, "it is due")
    still.sentinels(10)
    assert still.metric("scheduler_triggers_undeliverable_total", type="actor") == before + 1
    assert not watcher.hits
