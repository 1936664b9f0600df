"""Lines api/* of section 9 (scheduler-service.md): the unary calls, and what becomes of jobs."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration

from scheduler._pb.dapr.proto.common.v1 import common_pb2 as common
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conformance.conftest import Deployment
from tests.support.client import SERVICE, Client, actor_metadata, hosts_of, job_metadata

pytestmark = pytest.mark.e2e


def names_of(deployment: Deployment, metadata: pb.JobMetadata) -> list[str]:
    return [job.name for job in deployment.client.list(metadata)]


def delete_by_metadata(deployment: Deployment, metadata: pb.JobMetadata, **options: bool) -> None:
    deployment.client.call("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=metadata, **options))


def delete_by_prefix(deployment: Deployment, metadata: pb.JobMetadata, prefix: str) -> None:
    deployment.client.call("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(metadata=metadata, name_prefix=prefix))


def test_deletebymetadata(deployment: Deployment) -> None:
    """An exact delete leaves other app ids and actor ids; id_prefix_match also takes actor ids with that prefix, never other apps (W47)."""
    everything = [
        *(deployment.job(app) for app in ("app", "app2", "ap")),
        *(deployment.actor("kind", actor_id) for actor_id in ("id", "id2", "i")),
        deployment.actor("kind2", "id"),
    ]

    def fill() -> None:
        for metadata in everything:
            for name in ("a", "b||c"):
                deployment.client.schedule(name, metadata=metadata, due_time="1h", overwrite=True)

    def left() -> list[int]:
        return [len(names_of(deployment, metadata)) for metadata in everything]

    fill()
    delete_by_metadata(deployment, deployment.job("app"))
    assert left() == [0, 2, 2, 2, 2, 2, 2]
    delete_by_metadata(deployment, deployment.actor("kind", "id"))
    assert left() == [0, 2, 2, 0, 2, 2, 2]
    fill()
    delete_by_metadata(deployment, deployment.actor("kind", "id"), id_prefix_match=True)
    assert left() == [2, 2, 2, 0, 0, 2, 2]
    delete_by_metadata(deployment, deployment.job("app"), id_prefix_match=True)
    assert left() == [0, 2, 2, 0, 0, 2, 2]
    delete_by_metadata(deployment, deployment.actor("kind", ""))
    assert left() == [0, 2, 2, 0, 0, 0, 2]


def test_deletebynameprefix(deployment: Deployment) -> None:
    """An empty prefix deletes all of the target; others just the matching names; jobs and actors."""
    for metadata in (deployment.job(), deployment.actor("kind", "id")):
        deployment.schedule("abc-1", "abc-2", "abcd", "xyz", "xy", "ab", metadata=metadata, due_time="1h")
        delete_by_prefix(deployment, metadata, "abc-")
        assert names_of(deployment, metadata) == ["ab", "abcd", "xy", "xyz"]
        delete_by_prefix(deployment, metadata, "xy")
        assert names_of(deployment, metadata) == ["ab", "abcd"]
        delete_by_prefix(deployment, metadata, "")
        assert names_of(deployment, metadata) == []


def test_failurepolicy(deployment: Deployment) -> None:
    """Get and List return the default policy, an explicit constant one, and drop."""
    default = common.JobFailurePolicy(
        constant=common.JobFailurePolicyConstant(interval=Duration(seconds=1), max_retries=3)
    )
    explicit = common.JobFailurePolicy(
        constant=common.JobFailurePolicyConstant(interval=Duration(seconds=7), max_retries=9)
    )
    drop = common.JobFailurePolicy(drop=common.JobFailurePolicyDrop())
    deployment.schedule("default", due_time="1h")
    deployment.schedule("explicit", due_time="1h", failure_policy=explicit)
    deployment.schedule("drop", due_time="1h", failure_policy=drop)
    expected = {"default": default, "explicit": explicit, "drop": drop}
    assert {name: deployment.client.get(name, deployment.job()).failure_policy for name in expected} == expected
    assert {job.name: job.job.failure_policy for job in deployment.client.list(deployment.job())} == expected


def test_get(deployment: Deployment) -> None:
    deployment.schedule("x", due_time="100s")
    assert deployment.client.get("x", deployment.job()).due_time == "100s"
    with pytest.raises(grpc.RpcError) as caught:
        deployment.client.get("y", deployment.job())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "job not found: y")


def test_ha(rolling) -> None:
    """Create through one replica, get through another, delete through the third; then get fails everywhere."""
    clients = [Client(address) for address in rolling.addresses[:3]]
    metadata = job_metadata("ha", "ha")
    data = Any(type_url="type.googleapis.com/x", value=b"\x00\xff")
    job = pb.Job(schedule="@every 10h", repeats=4, due_time="1h", ttl="30h", data=data)
    clients[0].call("ScheduleJob", pb.ScheduleJobRequest(name="x", job=job, metadata=metadata))
    for client in clients:
        got = client.get("x", metadata)
        got.ClearField("failure_policy")
        assert got == job
    clients[2].delete("x", metadata)
    for client in clients:
        with pytest.raises(grpc.RpcError, match="job not found"):
            client.get("x", metadata)
        client.close()


def test_jobs(deployment: Deployment) -> None:
    """Ten jobs with uuids and underscores in their names: create, count, get, delete, get fails."""
    names = [f"job_{number}_{uuid4()}" for number in range(10)]
    for number, name in enumerate(names, 1):
        deployment.schedule(name, schedule="@every 20h", repeats=number)
        assert len(names_of(deployment, deployment.job())) == number
    for number, name in enumerate(names, 1):
        got = deployment.client.get(name, deployment.job())
        assert (got.schedule, got.repeats) == ("@every 20h", number)
        deployment.client.delete(name, deployment.job())
        with pytest.raises(grpc.RpcError, match="job not found"):
            deployment.client.get(name, deployment.job())
    assert names_of(deployment, deployment.job()) == []


def test_list_crud(deployment: Deployment) -> None:
    """Counts by namespace, app, actor type and actor id (an empty id: all) through creates, deletes and a one-shot that fires."""
    other = deployment.namespace + "-other"
    scopes = {
        "app": deployment.job(),
        "app2": deployment.job("app2"),
        "other namespace": deployment.job("app", other),
        "id": deployment.actor("kind", "id"),
        "id2": deployment.actor("kind", "id2"),
        "type": deployment.actor("kind", ""),
        "other type": deployment.actor("kind2", "id"),
    }

    def counts() -> dict[str, int]:
        return {scope: len(names_of(deployment, metadata)) for scope, metadata in scopes.items()}

    for scope, metadata in scopes.items():
        if scope != "type":
            deployment.schedule("a", "b", metadata=metadata, due_time="1h")
    expected = {**dict.fromkeys(scopes, 2), "type": 4}
    assert counts() == expected
    deployment.client.delete("a", deployment.actor("kind", "id"))
    deployment.client.delete("a", deployment.job("app2"))
    assert counts() == {**expected, "id": 1, "type": 3, "app2": 1}
    watcher = deployment.watch()
    deployment.schedule("fires", due_time="0s")
    deployment.wait(lambda: watcher.hits and counts()["app"] == 2, "the one-shot has fired and is gone")


def test_list_data(deployment: Deployment) -> None:
    """List returns what was scheduled, for jobs and reminders."""
    data = Any(type_url="type.googleapis.com/google.protobuf.BytesValue", value=b"\x0a\x05hello")
    job = {"schedule": "@every 24h", "repeats": 3, "due_time": "10h", "ttl": "100h", "data": data}
    for metadata in (deployment.job(), deployment.actor("kind", "id")):
        deployment.schedule("x", metadata=metadata, **job)
        [listed] = deployment.client.list(metadata)
        listed.job.ClearField("failure_policy")
        assert (listed.name, listed.job, listed.metadata) == ("x", pb.Job(**job), metadata)


def test_list_size(still: Deployment) -> None:
    """A hundred jobs of 2 MB each, created by ten clients at once, all in one List."""
    size = 2_000_000

    def create(number: int) -> None:
        client = Client(still.home.address)
        for index in range(10):
            data = Any(type_url="t", value=bytes([number * 10 + index]) * size)
            client.schedule(f"{number}-{index}", metadata=still.job("size"), due_time="1h", data=data)
        client.close()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(create, range(10)))
    listed = still.client.list(still.job("size"))
    contents = {job.name: job.job.data.value for job in listed}
    assert len(contents) == 100
    assert all(
        value == bytes([int(n.split("-")[0]) * 10 + int(n.split("-")[1])]) * size for n, value in contents.items()
    )
    delete_by_metadata(still, still.job("size"))


def test_remove(deployment: Deployment) -> None:
    """A recurring job is still there after its trigger's answer, and gone after DeleteJob; a second delete is no error."""
    watcher = deployment.watch()
    deployment.schedule("x", schedule="@every 1s")
    deployment.wait(lambda: watcher.hits, "a trigger")
    assert names_of(deployment, deployment.job()) == ["x"]
    deployment.client.delete("x", deployment.job())
    deployment.client.delete("x", deployment.job())
    assert names_of(deployment, deployment.job()) == []


def test_repeats(deployment: Deployment) -> None:
    """`@every 1s` with ttl 3s fires three times, with repeats 2 twice, then they are gone."""
    watcher = deployment.watch()
    deployment.schedule("ttl", schedule="@every 1s", ttl="3s")
    deployment.schedule("repeats", schedule="@every 1s", repeats=2)
    deployment.wait(lambda: names_of(deployment, deployment.job()) == [], "both are finished")
    assert sorted((hit.name, hit.index) for hit in watcher.hits) == [
        *(("repeats", index) for index in range(2)),
        *(("ttl", index) for index in range(3)),
    ]


def test_triggerstall(own) -> None:
    """Triggers unanswered, one of three replicas killed and restarted: triggers go on without a new connection of the client."""
    deployment: Deployment = own(3)
    watcher = deployment.watch(verdict=lambda hit: None if hit.name.startswith("held") else pb.SUCCESS)
    deployment.schedule(*(f"held{number}" for number in range(30)), due_time="0s")
    deployment.wait(lambda: len({hit.name for hit in watcher.hits}) == 30, "all are in flight")
    calls = set(map(id, watcher.calls()))
    killed = deployment.cluster.replicas[2]
    killed.kill()
    deployment.schedule(*(f"after{number}" for number in range(30)), schedule="@every 1s", repeats=2)
    expected = {f"after{number}" for number in range(30)}
    deployment.wait(lambda: expected <= {hit.name for hit in watcher.hits}, "the survivors fire all", 30)
    killed.start().wait_healthy()
    deployment.wait(lambda: len(hosts_of(deployment.home.address)) == 3, "three members")
    deployment.schedule(*(f"again{number}" for number in range(30)), due_time="0s")
    expected = {f"again{number}" for number in range(30)}
    deployment.wait(lambda: expected <= {hit.name for hit in watcher.hits}, "all three fire", 30)
    survivors = {replica.address for replica in deployment.cluster.replicas[:2]}
    assert {id(call) for address, call in watcher.calls_by_address().items() if address in survivors} <= calls


def test_watchhosts_cluster(own) -> None:
    """Three hosts; two within the lease's TTL after one is killed; three again after its restart."""
    deployment: Deployment = own(3)
    home, killed = deployment.home.address, deployment.cluster.replicas[1]
    assert sorted(hosts_of(home)) == sorted(deployment.cluster.addresses)
    killed.kill()
    deployment.wait(lambda: sorted(hosts_of(home)) == sorted(deployment.cluster.addresses), "two hosts", 10)
    assert len(hosts_of(home)) == 2
    killed.start().wait_healthy()
    deployment.wait(lambda: len(hosts_of(home)) == 3, "three hosts", 10)


@pytest.mark.parametrize("count", [1, 3])
def test_watchhosts_override(own, count: int) -> None:
    """The addresses that operators choose are the ones that sidecars are told."""
    deployment: Deployment = own(1, "--override-broadcast-host-port=one.example:1")
    for number in range(1, count):
        deployment.cluster.start(1, f"--override-broadcast-host-port=host{number}.example:{number}", settle_hosts=False)
    expected = ["one.example:1", "host1.example:1", "host2.example:2"][:count]
    deployment.wait(lambda: sorted(hosts_of(deployment.home.address)) == sorted(expected), "the chosen addresses")


def test_watchhosts_scaleup(own) -> None:
    """From two to three replicas with 500 WatchHosts streams and 400 staged jobs: each stream hears of it, and what is scheduled then fires."""
    deployment: Deployment = own(2)
    deployment.schedule(*(f"staged{number}" for number in range(400)), due_time="0s")
    lengths = [0] * 500
    calls = []

    def read(index: int, call) -> None:
        try:
            for answer in call:
                lengths[index] = len(answer.hosts)
        except grpc.RpcError:
            pass

    channels = [
        grpc.insecure_channel(deployment.home.address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(10)
    ]
    threads = []
    for index in range(500):
        rpc = channels[index % 10].unary_stream(
            f"{SERVICE}/WatchHosts",
            request_serializer=lambda _: b"",
            response_deserializer=pb.WatchHostsResponse.FromString,
        )
        calls.append(rpc(None))
        threads.append(threading.Thread(target=read, args=(index, calls[-1]), daemon=True))
        threads[-1].start()
    deployment.wait(lambda: lengths == [2] * 500, "each stream has heard of two", 30)
    deployment.cluster.start(1)
    deployment.wait(lambda: lengths == [3] * 500, "each stream has heard of three", 30)
    for call in calls:
        call.cancel()
    for channel in channels:
        channel.close()
    watcher = deployment.watch()
    deployment.schedule(*(f"new{number}" for number in range(50)), due_time="0s")
    deployment.wait(lambda: len({hit.name for hit in watcher.hits}) == 450, "staged and new jobs fire", 30)


def test_watchjobs_deadstream(still: Deployment) -> None:
    """A client that never reads dies with triggers of 128 KiB queued: all reach the live stream, which stays, and new jobs are delivered."""
    channel = grpc.insecure_channel(still.home.address, options=[("grpc.use_local_subchannel_pool", 1)])
    rpc = channel.stream_stream(
        f"{SERVICE}/WatchJobs",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.WatchJobsResponse.FromString,
    )
    forever = threading.Event()

    def requests():
        yield pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace=still.namespace))
        forever.wait(60)

    before = still.metric("dapr_scheduler_sidecars_connected")
    dead = rpc(requests())
    dead.initial_metadata()
    live = still.watch()
    assert still.metric("dapr_scheduler_sidecars_connected") == before + 2
    data = Any(type_url="t", value=b"x" * (128 << 10))
    names = {f"big{number}" for number in range(20)}
    still.schedule(*sorted(names), due_time="0s", data=data)
    still.wait(
        lambda: still.metric("scheduler_triggers_sent_total") and len(live.hits) >= 5, "some are at the live stream"
    )
    dead.cancel()
    forever.set()
    channel.close()
    still.wait(lambda: {hit.name for hit in live.hits} == names, "all reach the live stream")
    assert not live.errors
    still.wait(
        lambda: still.metric("dapr_scheduler_sidecars_connected") == before + 1, "the dead stream is counted out"
    )
    still.schedule("new", due_time="0s")
    still.wait(lambda: any(hit.name == "new" for hit in live.hits), "the new job")


def test_actor_metadata_has_both_ids(still: Deployment) -> None:
    """A reminder's trigger carries its type and id, and the name without its prefix (1.3)."""
    watcher = still.watch(actor_types=("kind",))
    still.schedule("na||me||", metadata=still.actor("kind", "i||d"), due_time="0s")
    still.wait(lambda: watcher.hits, "the reminder")
    [hit] = watcher.hits
    assert (hit.name, hit.message.metadata) == ("na||me||", actor_metadata("kind", "i||d", namespace=still.namespace))
