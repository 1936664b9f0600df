"""What operators order on a running cluster: a member drained and let back, a job run now."""

import time

import grpc
import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as dapr
from tests.support.admin import Operator
from tests.support.client import Client, Watcher, actor_metadata, job_metadata, partition_of
from tests.support.processes import wait_until

pytestmark = pytest.mark.e2e
JOBS = 40
LATE_S = 0.5


@pytest.mark.alone
def test_a_drained_member_hands_over_without_a_gap_and_takes_nothing_until_it_may(cluster) -> None:
    one = cluster(3)
    watcher, client = Watcher(one.addresses), Client(one.addresses[0])
    victim = one.replicas[1]
    operator = Operator(victim.address)
    names = {f"tick-{number}" for number in range(JOBS)}
    for name in names:
        client.schedule(name, schedule="@every 1s")
    wait_until(lambda: names <= set(watcher.by_name()), timeout_s=30, what="every job has fired")

    def owned() -> int:
        return list(one.reader.owners().values()).count(victim.name)

    started_ns = time.time_ns()
    assert operator.call("DrainMember", replica=victim.name).partitions > 30
    wait_until(lambda: owned() == 0, timeout_s=30, what="the member owns nothing")
    wait_until(lambda: len(one.reader.owners()) == 128, timeout_s=30, what="the others own everything")
    status = operator.call("GetStatus")
    assert status.drained and not status.ready and status.not_ready == "drained by an operator"
    assert status.member.state == "draining" and status.load.streams == 1
    assert victim.process is not None and victim.process.poll() is None

    # It still takes calls; what it accepts fires elsewhere. It is a member still, so its stream stays.
    Client(victim.address).schedule("by the drained one", due_time="0s")
    wait_until(lambda: "by the drained one" in watcher.by_name(), timeout_s=30, what="its job has fired")
    assert watcher.by_name()["by the drained one"][0].replica != victim.name
    time_to_see = time.time_ns()
    wait_until(
        lambda: (
            min(max(hit.at_ns for hit in hits) for name, hits in watcher.by_name().items() if name in names)
            > time_to_see + 2_000_000_000
        ),
        timeout_s=30,
        what="two more seconds of every job",
    )
    assert owned() == 0
    operator.call("DrainMember", replica=victim.name, undrain=True)
    wait_until(lambda: owned() >= 42, timeout_s=30, what="the member has its share again")
    assert operator.call("GetStatus").ready
    back_ns = time.time_ns()
    wait_until(
        lambda: (
            min(max(hit.at_ns for hit in hits) for name, hits in watcher.by_name().items() if name in names)
            > back_ns + 1_500_000_000
        ),
        timeout_s=30,
        what="another second of every job",
    )
    watcher.close()
    for name, hits in watcher.by_name().items():
        if name not in names:
            continue
        occurrences = sorted((hit.index, hit.scheduled_ns) for hit in hits)
        assert [index for index, _ in occurrences] == list(range(occurrences[0][0], occurrences[0][0] + len(hits))), (
            name
        )
        steps = {later[1] - earlier[1] for earlier, later in zip(occurrences, occurrences[1:], strict=False)}
        assert steps == {1_000_000_000}, name
    late = max((hit.late_s, hit.name, hit.replica) for hit in watcher.hits if hit.at_ns > started_ns)
    assert late[0] <= LATE_S, late
    client.close()
    operator.close()


def test_the_last_member_is_drained_only_by_force_and_another_name_not_at_all(cluster) -> None:
    one = cluster(1)
    operator = Operator(one.addresses[0])
    for fields, text in (
        ({"replica": "replica-0"}, "no other member is serving"),
        ({"replica": "replica-1", "force": True}, "this is replica 'replica-0', not 'replica-1'"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            operator.call("DrainMember", **fields)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION and text in caught.value.details()
    assert operator.call("GetStatus").ready
    operator.call("DrainMember", replica="replica-0", force=True)
    wait_until(lambda: not one.reader.owners(), timeout_s=30, what="nobody owns anything")
    operator.call("DrainMember", replica="replica-0", undrain=True)
    wait_until(lambda: len(one.reader.owners()) == 128, timeout_s=30, what="everything is owned again")
    operator.close()


def test_a_job_runs_now_beside_its_schedule(cluster) -> None:
    one = cluster(2)
    watcher, client = Watcher(one.addresses, actor_types=("kind",)), Client(one.addresses[0])
    operator = Operator(one.addresses[1])
    actor = actor_metadata("kind", "7")
    client.schedule("hourly", schedule="@every 1h", data=dapr.Job().data)
    client.schedule("once", due_time="6s")
    client.schedule("reminder", metadata=actor, schedule="@every 1h")
    before = {name: client.get(name) for name in ("hourly", "once")}
    assert not watcher.hits

    for number, (name, metadata) in enumerate(
        [("hourly", job_metadata()), ("once", job_metadata()), ("reminder", actor), ("hourly", job_metadata())]
    ):
        answer = operator.call("RunNow", name=name, metadata=metadata, request_id=f"request{number}")
        wait_until(lambda: len(watcher.hits) == number + 1, timeout_s=30, what=f"{name} has fired")  # noqa: B023
        hit = watcher.hits[-1]
        assert hit.name == name and hit.scheduled_ns == answer.scheduled_unix_ns and hit.late_s < 1
        assert hit.message.metadata == metadata and hit.index == 0 and hit.attempt == 0
    # Each is an occurrence of its own, so no app takes it for a repeat of another.
    assert len({hit.generation for hit in watcher.hits}) == 4

    # The schedules are as they were, and the one-shot fires at its time, once.
    assert {name: client.get(name) for name in ("hourly", "once")} == before
    wait_until(lambda: len(watcher.by_name()["once"]) == 2, timeout_s=30, what="the one-shot fires at its time")
    wait_until(lambda: [job.name for job in client.list()] == ["hourly"], timeout_s=30, what="it is finished")
    wait_until(lambda: len(one.reader.range("/scheduler/jobs/")) == 2, timeout_s=30, what="the occurrences' records go")
    assert len(watcher.hits) == 5
    watcher.close()

    # Where nobody is connected it waits, and asked for again it is the same; no list shows it, no name reaches it.
    for _ in range(2):
        operator.call("RunNow", name="hourly", metadata=job_metadata(), request_id="thesame1")
    assert [job.name for job in client.list()] == ["hourly"]
    assert len(one.reader.range("/scheduler/jobs/")) == 3
    later = Watcher(one.addresses)
    wait_until(lambda: len(later.hits) == 1, timeout_s=30, what="it fires once there is a stream")
    wait_until(lambda: len(one.reader.range("/scheduler/jobs/")) == 2, timeout_s=30, what="its record goes")
    assert len(later.hits) == 1
    later.close()
    client.close()
    operator.close()


def test_an_occurrence_beside_the_schedule_outlives_its_owner(cluster) -> None:
    one = cluster(2, "--lease-ttl=2")
    client, operator = Client(one.addresses[0]), Operator(one.addresses[0])
    client.schedule("hourly", schedule="@every 1h")
    for number in range(6):
        operator.call("RunNow", name="hourly", metadata=job_metadata(), request_id=f"request{number}")
    owners = one.reader.owners()
    places = [owners[int(key.split("/")[3])] for key in one.reader.range("/scheduler/jobs/") if "request" in key]
    # All in the job's own partition: its owner fires them.
    assert places == [owners[partition_of("app||default||app||hourly")]] * 6
    next(replica for replica in one.replicas if replica.name == places[0]).kill()
    watcher = Watcher(one.addresses)
    wait_until(lambda: len(watcher.hits) == 6, timeout_s=30, what="all have fired")
    wait_until(lambda: len(one.reader.range("/scheduler/jobs/")) == 1, timeout_s=30, what="their records go")
    assert len({hit.generation for hit in watcher.hits}) == len(watcher.hits) == 6
    watcher.close()
    operator.close()
    client.close()


def test_deleting_a_job_withdraws_its_occurrence_and_no_other_jobs(cluster) -> None:
    one = cluster(1)
    client, operator = Client(one.addresses[0]), Operator(one.addresses[0])
    names = ["job", "job ", "job!", "job2"]
    for name in names:
        client.schedule(name, schedule="@every 1h")
        operator.call("RunNow", name=name, metadata=job_metadata(), request_id="request1")
    assert len(one.reader.range("/scheduler/jobs/")) == 8
    client.delete("job")
    assert len(one.reader.range("/scheduler/jobs/")) == 6
    assert sorted(job.name for job in client.list()) == names[1:]
    # What is deleted may fire until its owner hears of it (promise G8).
    wait_until(
        lambda: operator.call("GetStatus").load.jobs == 6, timeout_s=30, what="the owner knows that they are gone"
    )
    watcher = Watcher(one.addresses)
    wait_until(lambda: len(watcher.hits) == 3, timeout_s=30, what="the others' occurrences")
    assert sorted(hit.name for hit in watcher.hits) == names[1:]
    operator.call("RunNow", name="job2", metadata=job_metadata(), request_id="request2")
    wait_until(lambda: len(watcher.hits) == 4, timeout_s=30, what="one more")
    watcher.close()
    client.close()
    operator.close()


def test_an_occurrence_beside_the_schedule_is_tried_again_as_the_job_says(cluster) -> None:
    one = cluster(1)
    watcher = Watcher(one.addresses, verdict=lambda hit: dapr.SUCCESS if hit.attempt else dapr.FAILED)
    client, operator = Client(one.addresses[0]), Operator(one.addresses[0])
    client.schedule("hourly", schedule="@every 1h")
    operator.call("RunNow", name="hourly", metadata=job_metadata(), request_id="request1")
    wait_until(lambda: len(watcher.hits) == 2, timeout_s=30, what="a second attempt")
    assert [hit.attempt for hit in watcher.hits] == [0, 1]
    watcher.close()
    client.close()
    operator.close()


def test_what_cannot_run_now_is_refused(cluster) -> None:
    one = cluster(1)
    operator, client = Operator(one.addresses[0]), Client(one.addresses[0])
    client.schedule("job", schedule="@every 1h")
    for name, request_id, code, text in (
        ("missing", "request1", grpc.StatusCode.NOT_FOUND, "job not found: missing"),
        ("job", "short", grpc.StatusCode.INVALID_ARGUMENT, "request_id is 'short'"),
        ("a/b", "request1", grpc.StatusCode.UNKNOWN, "must not contain '/'"),
        ("job\x1frequest1", "request1", grpc.StatusCode.UNKNOWN, "control characters"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            operator.call("RunNow", name=name, request_id=request_id, metadata=job_metadata())
        assert caught.value.code() is code and text in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        operator.call("RunNow", name="job", request_id="request1")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    operator.close()
    client.close()
