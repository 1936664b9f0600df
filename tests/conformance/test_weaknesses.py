"""Weaknesses of the reference (scheduler-service.md 10) that we claim not to have, where no other conformance test shows it."""

import contextlib
import threading
import time
from itertools import pairwise

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from scheduler._pb.dapr.proto.common.v1 import common_pb2 as common
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.etcd_api.v1 import etcd_pb2
from scheduler._pb.scheduler_storage.v1 import storage_pb2
from tests.conformance.conftest import Deployment
from tests.support.client import SERVICE, partition_of
from tests.support.processes import EtcdServer

pytestmark = pytest.mark.e2e


def put(etcd: EtcdServer, key: str, value: bytes) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{etcd.port}") as channel:
        request = etcd_pb2.PutRequest(key=key.encode(), value=value)
        channel.unary_unary("/etcdserverpb.KV/Put")(request.SerializeToString(), timeout=30)


def refused(deployment: Deployment, **job) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        deployment.schedule("x", **job)
    return caught.value.details()


def test_w1_a_missing_job_is_refused(still: Deployment) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        still.client.call("ScheduleJob", pb.ScheduleJobRequest(name="x", metadata=still.job()))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "job is missing" in caught.value.details()


def test_w3_poison_records_are_contained_counted_and_named(own) -> None:
    """Garbage among jobs, journal, checkpoints, members and claims, while running and at a restart: nobody else notices, and the log names the key."""
    deployment: Deployment = own(1)
    etcd, home = deployment.cluster.etcd, deployment.home
    watcher = deployment.watch()
    deployment.schedule("steady", schedule="@every 1s")
    partition = partition_of(f"app||{deployment.namespace}||app||steady")
    odd_schedule = storage_pb2.JobRecord(generation=7, schedule="nonsense").SerializeToString()
    poison = {
        f"/scheduler/jobs/{partition:05d}/app||{deployment.namespace}||app||garbage": b"\xff\xff\xff",
        f"/scheduler/jobs/{partition:05d}/app||{deployment.namespace}||app||odd": odd_schedule,
        f"/scheduler/jobs/{partition:05d}/no-separators": b"\x0a",
        f"/scheduler/ledger/{partition:05d}/journal/00000000000fffff": b"\xff\xff",
        f"/scheduler/ledger/{partition:05d}/checkpoint/0000000000000001/0000": b"\xff",
        "/scheduler/members/stranger": b"\xff\xff",
        "/scheduler/claims/nonsense": b"\xff",
    }
    for key, value in poison.items():
        put(etcd, key, value)
    deployment.wait(lambda: deployment.metric("scheduler_corrupt_records_total") >= 3, "they are counted")
    for name in ("garbage", "odd", "no-separators"):
        assert name in home.tail(40_000)
    seen = len(watcher.hits)
    deployment.wait(lambda: len(watcher.hits) >= seen + 3, "the steady job goes on")
    assert [hit.late_s < 1 for hit in watcher.hits[-3:]] == [True] * 3
    # A listing leaves out what does not parse.
    assert "steady" in {job.name for job in deployment.client.list(deployment.job())}
    home.kill()
    home.start().wait_healthy()
    deployment.wait(
        lambda: deployment.metric("scheduler_corrupt_records_total") >= 5, "they are counted again at the start"
    )
    seen = len(watcher.hits)
    deployment.wait(lambda: len(watcher.hits) >= seen + 3, "the steady job goes on")
    indexes = sorted({hit.index for hit in watcher.hits})
    assert indexes == list(range(len(indexes))), "no occurrence is missing"
    assert home.process.poll() is None


@pytest.mark.parametrize("schedule", ["0 0 0 30 2 *", "0 0 0 31 4 ?", ", * * * * *", "* * * , * *"])
def test_w7_schedules_that_never_match_are_refused(still: Deployment, schedule: str) -> None:
    assert "never" in refused(still, schedule=schedule)


@pytest.mark.alone
def test_w8_no_job_is_a_hot_loop(still: Deployment) -> None:
    """Zero, negative and tiny periods, and retries without a pause, are paced after a burst; a punctual job beside them stays on time."""
    watcher = still.watch(verdict=lambda hit: pb.FAILED if hit.name == "retry" else pb.SUCCESS)
    punctual = still.watch("punctual")
    forever = common.JobFailurePolicy(constant=common.JobFailurePolicyConstant(interval=Duration()))
    for name, job in {
        "zero": {"schedule": "@every 0s"},
        "tiny": {"schedule": "@every 1ns"},
        "negative": {"schedule": "@every -1s"},
        "retry": {"due_time": "0s", "failure_policy": forever},
    }.items():
        still.schedule(name, **job)
    still.schedule("p", metadata=still.job("punctual"), schedule="@every 500ms")
    still.wait(
        lambda: all(
            sum(hit.name == name for hit in watcher.hits) > 1_050 for name in ("zero", "tiny", "negative", "retry")
        ),
        "the bursts are over",
        60,
    )
    still.wait(lambda: len(punctual.hits) >= 4, "the punctual job")
    started, before = time.monotonic(), len(watcher.hits)
    still.wait(lambda: len(watcher.hits) > before + 200, "they go on, paced")
    rate = (len(watcher.hits) - before) / (time.monotonic() - started)
    assert rate < 4 * 110, f"four jobs fire {rate:.0f} times a second"
    assert max(hit.late_s for hit in punctual.hits) < 1.0
    for name in ("zero", "tiny", "negative", "retry"):
        still.client.delete(name, still.job())
    still.client.delete("p", still.job("punctual"))


def test_w12_any_connected_stream_makes_a_target_deliverable(deployment: Deployment) -> None:
    """One of two streams of an app ends with triggers in flight: the other gets them, without a new connection."""
    staying = deployment.watch()
    leaving = deployment.watch(verdict=lambda _hit: None)
    deployment.schedule(*(f"j{number}" for number in range(20)), due_time="0s")
    deployment.wait(lambda: len({hit.name for hit in staying.hits + leaving.hits}) == 20, "all are sent")
    leaving.close()
    deployment.wait(lambda: len({hit.name for hit in staying.hits}) == 20, "the other stream has all")
    assert len(staying.hits) == 20


@pytest.mark.alone
def test_w24_calls_are_served_while_the_members_change(rolling) -> None:
    """Reads and writes through a replica that stays, all the time while another joins and one leaves: none fails, none takes a second."""
    from tests.conformance.conftest import Churn

    deployment = Deployment(rolling)
    slowest, number = 0.0, 0
    with Churn(rolling) as churn:
        while churn.running:
            started = time.monotonic()
            deployment.schedule(f"j{number % 50}", due_time="1h", overwrite=True)
            assert deployment.client.get(f"j{number % 50}", deployment.job()).due_time == "1h"
            slowest, number = max(slowest, time.monotonic() - started), number + 1
    assert number > 50
    assert slowest < 1.0
    deployment.close()


def test_w30_watchhosts_speaks_only_when_the_set_changes(own) -> None:
    deployment: Deployment = own(1)
    answers: list[list[str]] = []
    with grpc.insecure_channel(deployment.home.address) as channel:
        rpc = channel.unary_stream(
            f"{SERVICE}/WatchHosts",
            request_serializer=lambda _: b"",
            response_deserializer=pb.WatchHostsResponse.FromString,
        )
        call = rpc(None)

        def read() -> None:
            with contextlib.suppress(grpc.RpcError):
                answers.extend([host.address for host in answer.hosts] for answer in call)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        deployment.cluster.start(1)
        deployment.wait(lambda: answers and len(answers[-1]) == 2, "two hosts")
        assert deployment.cluster.replicas[1].terminate() == 0
        deployment.wait(lambda: len(answers[-1]) == 1, "one host")
        call.cancel()
        thread.join(5)
    assert [len(hosts) for hosts in answers] == [1, 2, 1]


def test_w41_a_stream_that_does_not_answer_gets_less(still: Deployment) -> None:
    quick, stuck = still.watch(), still.watch(verdict=lambda _hit: None)
    for number in range(100):
        still.schedule(f"j{number}", due_time="0s")
        still.wait(lambda number=number: len(quick.hits) + len(stuck.hits) > number, "it is sent")
    assert len(stuck.hits) <= 10, f"{len(stuck.hits)} of 100 went to a stream that does not answer"


def test_w48_names_that_look_alike_stay_apart(deployment: Deployment) -> None:
    """`a||b` with `c` is not `a` with `b||c`, for apps, actor types, ids and names; deletes by prefix keep to their own."""
    pairs = [
        (deployment.job("a||b"), "c", deployment.job("a"), "b||c"),
        (deployment.actor("t||u", "i"), "n", deployment.actor("t", "u||i"), "n"),
        (deployment.actor("t", "i||j"), "n", deployment.actor("t", "i"), "j||n"),
        (deployment.job("p%7C%7Cq"), "c", deployment.job("p||q"), "c"),
    ]
    for one, name, other, other_name in pairs:
        deployment.schedule(name, metadata=one, due_time="1h")
        deployment.schedule(other_name, metadata=other, due_time="2h")
        assert deployment.client.get(name, one).due_time == "1h"
        assert deployment.client.get(other_name, other).due_time == "2h"
        assert [job.name for job in deployment.client.list(one)] == [name]
        deployment.client.call("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=other, id_prefix_match=True))
        deployment.client.call("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(metadata=other, name_prefix=""))
        if "i||j" not in str(one):
            assert [job.name for job in deployment.client.list(one)] == [name]


def test_ranges_are_read_by_our_own_statement_of_the_etcd_api(lone) -> None:
    """The reader that other tests trust really reads etcd."""
    with grpc.insecure_channel(f"127.0.0.1:{lone.etcd.port}") as channel:
        request = etcd_pb2.RangeRequest(key=b"/scheduler/meta").SerializeToString()
        answer = etcd_pb2.RangeResponse.FromString(channel.unary_unary("/etcdserverpb.KV/Range")(request, timeout=30))
    assert storage_pb2.Meta.FromString(answer.kvs[0].value).partition_count == 128


def test_w10_an_answer_that_does_not_come_is_a_failure_and_can_be_seen(own) -> None:
    """With --ack-timeout the failure policy decides about an app that hangs; without it, a metric tells how old the oldest trigger is."""
    deployment: Deployment = own(1, "--ack-timeout=1")
    policy = common.JobFailurePolicy(constant=common.JobFailurePolicyConstant(interval=Duration(), max_retries=2))
    watcher = deployment.watch(verdict=lambda hit: None if hit.name == "hangs" else pb.SUCCESS)
    deployment.schedule("hangs", due_time="0s", failure_policy=policy)
    deployment.wait(lambda: deployment.metric("scheduler_oldest_in_flight_seconds") > 0.3, "its age is to be seen")
    deployment.wait(lambda: deployment.client.list(deployment.job()) == [], "it is given up")
    assert [hit.attempt for hit in watcher.hits] == [0, 1, 2]
    assert all(0.9 < (b.at_ns - a.at_ns) / 1e9 < 10 for a, b in pairwise(watcher.hits))
    assert deployment.metric("scheduler_triggers_unanswered_total") == 3
    watcher.hits[0].answer()
    deployment.schedule("quick", due_time="0s")
    deployment.wait(lambda: any(hit.name == "quick" for hit in watcher.hits), "the late answer harms nothing")


@pytest.mark.alone
def test_w14_catching_up_does_not_starve_a_punctual_job(still: Deployment) -> None:
    """A hundred jobs with an hour of missed seconds each; another tenant's job beside them stays on time."""
    backlog, punctual = still.watch(), still.watch("punctual")
    still.schedule(*(f"j{number}" for number in range(100)), schedule="@every 1s", due_time="-1h", ttl="2h")
    still.schedule("p", metadata=still.job("punctual"), schedule="@every 250ms")
    still.wait(lambda: len(punctual.hits) >= 12 and len(backlog.hits) > 1_000, "both go on")
    assert max(hit.late_s for hit in punctual.hits) < 1.0
    # Each backlog is in order, without a gap, and far from its end.
    for hits in backlog.by_name().values():
        assert [hit.index for hit in hits] == list(range(len(hits)))
    still.client.call("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=still.job()))
    still.client.delete("p", still.job("punctual"))
