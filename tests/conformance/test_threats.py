"""Threats of reliability.md 5.3 that no other test shows: T5 (stolen triggers), T6 (forged answers), T16 (leaks into logs and metrics).

T2 is test_authz.py::test_mtls, T3 and T4 are ../core/test_names.py and test_weaknesses.py::test_w48_*, T13 is test_weaknesses.py::test_w3_*.
"""

import json
from urllib.request import urlopen

import grpc
import pytest
from google.protobuf.any_pb2 import Any

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.scheduler_storage.v1 import storage_pb2
from tests.conformance.conftest import Deployment
from tests.conformance.test_weaknesses import put
from tests.support.client import SERVICE, partition_of

pytestmark = pytest.mark.e2e


def test_t5_triggers_go_to_their_app_alone(still: Deployment) -> None:
    """Apps whose names look alike, another namespace, and an app that hosts an actor type of the app's name: none of them sees anything."""
    owner = still.watch("shop")
    others = [
        still.watch(app, actor_types=("shop",)) for app in ("shop2", "sho", "Shop", "shop||x", "shop%7C%7Cx", "||")
    ]
    still.schedule(*(f"j{number}" for number in range(20)), metadata=still.job("shop"), schedule="@every 1s", repeats=2)
    still.wait(lambda: len({(hit.name, hit.index) for hit in owner.hits}) == 40, "all arrive")
    assert [hit.name for other in others for hit in other.hits] == []


def test_t6_answers_count_only_on_the_stream_that_got_the_trigger(still: Deployment) -> None:
    """Another app, and another stream of the same app, answer every id there could be: the trigger stays in flight."""
    owner = still.watch("owner", verdict=lambda _hit: None)
    still.schedule("x", metadata=still.job("owner"), due_time="0s")
    still.wait(lambda: owner.hits, "the trigger")
    for app in ("forger", "owner"):
        initial = pb.WatchJobsRequestInitial(app_id=app, namespace=still.namespace)
        forged = [pb.WatchJobsRequest(initial=initial)] + [
            pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=number)) for number in range(1, 200)
        ]
        with grpc.insecure_channel(still.home.address) as channel:
            rpc = channel.stream_stream(
                f"{SERVICE}/WatchJobs", request_serializer=lambda message: message.SerializeToString()
            )
            with pytest.raises(grpc.RpcError) as caught:
                list(rpc(iter(forged), timeout=30))
            assert caught.value.code() is grpc.StatusCode.CANCELLED, "the half-close ended it, after all messages"
    assert [job.name for job in still.client.list(still.job("owner"))] == ["x"]
    owner.hits[0].answer()
    still.wait(lambda: still.client.list(still.job("owner")) == [], "the true answer counts")
    assert len(owner.hits) == 1


def test_t16_nothing_that_is_a_secret_is_logged_or_counted_by_name(own) -> None:
    """Canaries in data, names, app ids, keys and headers, through success, failure, refusal and poison, at the most talkative level."""
    deployment: Deployment = own(1, "--log-level=debug")
    home, etcd = deployment.home, deployment.cluster.etcd
    canary = {
        part: f"CANARY{part}7f3a" for part in ("data", "url", "name", "app", "actor", "id", "key", "token", "schedule")
    }
    data = Any(type_url=canary["url"], value=canary["data"].encode())
    metadata = deployment.job(canary["app"])
    actor = deployment.actor(canary["actor"], canary["id"])
    actor.concurrency_key = canary["key"]
    watcher = deployment.watch(canary["app"], (canary["actor"],), lambda hit: (pb.SUCCESS, pb.FAILED)[hit.attempt % 2])
    for where in (metadata, actor):
        deployment.schedule(canary["name"], metadata=where, due_time="0s", data=data)
        deployment.schedule(canary["name"] + "2", metadata=where, schedule="@every 1s", repeats=2, data=data)
    deployment.wait(lambda: len(watcher.hits) >= 6, "they fire")
    rpc = deployment.client.channel.unary_unary(f"{SERVICE}/ScheduleJob")
    for request in (
        pb.ScheduleJobRequest(name=canary["name"], job=pb.Job(schedule=canary["schedule"], data=data), metadata=metadata),
        pb.ScheduleJobRequest(name=canary["name"] + "\x9b31m\n", job=pb.Job(due_time="0s", data=data), metadata=metadata),
        pb.ScheduleJobRequest(name="x", metadata=metadata),
    ):  # fmt: skip
        with pytest.raises(grpc.RpcError):
            rpc(request.SerializeToString(), timeout=30, metadata=(("dapr-api-token", canary["token"]),))
    with pytest.raises(grpc.RpcError):
        rpc(b"\xff" + canary["data"].encode(), timeout=30)
    # A record that does not parse is named by its key, and by nothing of what is in it.
    trigger = pb.WatchJobsResponse(name="x", data=data).SerializeToString()
    poison = storage_pb2.JobRecord(generation=1, trigger=trigger, schedule="not " + canary["schedule"])
    poison_key = f"app||{deployment.namespace}||poisoned||evil\x1b[31m\nline"
    put(etcd, f"/scheduler/jobs/{partition_of(poison_key):05d}/{poison_key}", poison.SerializeToString())
    deployment.wait(lambda: deployment.metric("scheduler_corrupt_records_total") >= 1, "the poison is counted")
    with urlopen(f"http://127.0.0.1:{home.metrics_port}/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    assert home.terminate() == 0
    log = home.log.read_text()
    for part in ("data", "url", "token"):
        assert canary[part] not in log, part
    assert [part for part, text in canary.items() if text in metrics] == []
    assert "poisoned" in log
    assert "\x1b" not in log and "\x9b" not in log
    assert not [line for line in log.splitlines() if line.startswith("line")], (
        "nobody writes lines of their own into the log"
    )


def test_log_lines_stay_lines_as_json(own) -> None:
    deployment: Deployment = own(1, "--log-as-json")
    key = f'app||{deployment.namespace}||a||evil\n"}}\x9b'
    put(deployment.cluster.etcd, f"/scheduler/jobs/{partition_of(key):05d}/{key}", b"\xff")
    deployment.wait(lambda: deployment.metric("scheduler_corrupt_records_total") >= 1, "it is counted")
    lines = [json.loads(line) for line in deployment.home.log.read_text().splitlines()]
    assert {"time", "level", "scope", "msg"} <= set.intersection(*map(set, lines))
    assert any(line["msg"] == "job_record_corrupt" for line in lines)
