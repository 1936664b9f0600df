"""etcd stops answering, or dies: every call ends within its caller's deadline and says UNAVAILABLE, streams stay, and all goes on afterwards."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conformance.conftest import Deployment
from tests.support.client import Client, hosts_of

pytestmark = pytest.mark.e2e
DEADLINES_S = (0.5, 7.0)
# From the deadline to the caller's hearing of it.
SLACK_S = 1.0


def requests(metadata: pb.JobMetadata) -> dict[str, object]:
    return {
        "ScheduleJob": pb.ScheduleJobRequest(name="y", job=pb.Job(due_time="1h"), metadata=metadata, overwrite=True),
        "GetJob": pb.GetJobRequest(name="x", metadata=metadata),
        "DeleteJob": pb.DeleteJobRequest(name="y", metadata=metadata),
        "ListJobs": pb.ListJobsRequest(metadata=metadata),
        "DeleteByMetadata": pb.DeleteByMetadataRequest(metadata=metadata),
        "DeleteByNamePrefix": pb.DeleteByNamePrefixRequest(metadata=metadata, name_prefix="y"),
    }


def outcome(address: str, method: str, request, deadline_s: float) -> tuple[str, float, str, float]:
    client, started = Client(address), time.monotonic()
    try:
        client.call(method, request, timeout=deadline_s)
        code = "OK"
    except grpc.RpcError as error:
        code = error.code().name
    took_s = time.monotonic() - started
    client.close()
    return method, deadline_s, code, took_s


@pytest.mark.parametrize("fault", ["stopped", "dead"])
def test_no_call_hangs_beyond_its_deadline(own, fault: str) -> None:
    """All six unary calls at once, with a short deadline and a long one; WatchHosts answers from what it knows; a stream outlives it."""
    deployment: Deployment = own(1)
    address, etcd, metadata = deployment.home.address, deployment.cluster.etcd, deployment.job("calls")
    watcher = deployment.watch()
    deployment.schedule("x", metadata=metadata, due_time="1h")
    # A call takes the connection and the lease's trust as they are before the fault is noticed.
    if fault == "stopped":
        etcd.process.send_signal(signal.SIGSTOP)
    else:
        etcd.kill()
    try:
        with ThreadPoolExecutor(12) as pool:
            jobs = [
                pool.submit(outcome, address, method, request, deadline_s)
                for method, request in requests(metadata).items()
                for deadline_s in DEADLINES_S
            ]
            assert hosts_of(address) == [address]
            for method, deadline_s, code, took_s in [job.result() for job in jobs]:
                assert took_s < deadline_s + SLACK_S, (method, deadline_s, code, took_s)
                # With time enough the answer is what it is, not silence until the deadline.
                allowed = {"UNAVAILABLE"} if deadline_s > 5 else {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
                assert code in allowed, (method, deadline_s, code, took_s)
        assert watcher.connected == {address}
        deployment.wait(lambda: not deployment.home.healthy(), "it says that it is not ready")
    finally:
        if fault == "stopped":
            etcd.process.send_signal(signal.SIGCONT)
        else:
            etcd.start()
    deployment.home.wait_healthy(timeout_s=30)
    deployment.schedule("after", due_time="0s")
    deployment.wait(lambda: any(hit.name == "after" for hit in watcher.hits), "it fires again", 30)
    assert not watcher.errors
    # Deletes that were cut off may or may not be in force; repeating them is safe.
    deployment.client.call("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=metadata))
    assert deployment.client.list(metadata) == []
