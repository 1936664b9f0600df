"""Lines embed/*, quorum, leases and shutdown of section 9 (scheduler-service.md): etcd inside and outside, and the process's life."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.etcd_api.v1 import etcd_pb2
from scheduler.etcd.binary import find_etcd
from tests.conftest import Cluster
from tests.support.client import SERVICE, Client, EtcdReader, Watcher, job_metadata
from tests.support.processes import ROOT, Child, EtcdServer, Replica, answers, free_port, wait_until

pytestmark = pytest.mark.e2e


class EtcdCluster:
    """Three members."""

    def __init__(self, directory: Path) -> None:
        self.members = [(free_port(), free_port()) for _ in range(3)]
        self._children = []
        everyone = ",".join(f"m{number}=http://127.0.0.1:{peer}" for number, (_, peer) in enumerate(self.members))
        for number, (client, peer) in enumerate(self.members):
            child = Child(directory / f"etcd{number}.log")
            client_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
            child.spawn(
                [
                    str(find_etcd().path), f"--name=m{number}", f"--data-dir={directory / f'm{number}'}",
                    f"--listen-client-urls={client_url}", f"--advertise-client-urls={client_url}",
                    f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}",
                    f"--initial-cluster={everyone}", "--log-level=error",
                ]
            )  # fmt: skip
            self._children.append(child)
        wait_until(lambda: all(answers(client) for client, _ in self.members), timeout_s=30, what="three etcd members")

    @property
    def endpoint(self) -> str:
        return ",http://".join(f"127.0.0.1:{client}" for client, _ in self.members).join(("http://", ""))

    @property
    def port(self) -> int:
        return self.members[0][0]

    def stop(self, number: int) -> None:
        self._children[number].kill()

    def close(self) -> None:
        for child in self._children:
            child.close()


@pytest.fixture
def three_members(tmp_path: Path):
    etcd = EtcdCluster(tmp_path)
    yield etcd
    etcd.close()


def test_embed_cluster_and_quorum(three_members: EtcdCluster, tmp_path: Path) -> None:
    """An etcd of three members: a job written through one of three replicas is in every member. One member may die; without a majority
    calls end with UNAVAILABLE in time instead of hanging, and all goes on afterwards."""
    cluster = Cluster(three_members, tmp_path).start(3)
    client = Client(cluster.addresses[1])
    client.schedule("x", due_time="1h")
    [key] = three_members_read(three_members.members[0][0])
    for port, _ in three_members.members:
        wait_until(lambda port=port: three_members_read(port) == [key], timeout_s=30, what="the job is in each member")
    three_members.stop(0)
    wait_until(lambda: succeeds(client, "y"), timeout_s=30, what="two of three members are enough")
    three_members.stop(1)
    for method, request in (
        ("ScheduleJob", pb.ScheduleJobRequest(name="z", job=pb.Job(due_time="1h"), metadata=job_metadata())),
        ("GetJob", pb.GetJobRequest(name="x", metadata=job_metadata())),
        ("ListJobs", pb.ListJobsRequest(metadata=job_metadata())),
        ("DeleteJob", pb.DeleteJobRequest(name="x", metadata=job_metadata())),
    ):
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            client.call(method, request, timeout=3)
        assert time.monotonic() - started < 20
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            client.call(method, request, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, (method, caught.value)
        assert time.monotonic() - started < 55
    assert all(replica.process.poll() is None for replica in cluster.replicas)
    client.close()
    cluster.close()


def three_members_read(port: int) -> list[bytes]:
    """The job keys that this member has itself."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        rpc = channel.unary_unary("/etcdserverpb.KV/Range")
        serializable = b"\x38\x01"  # field 7, which our own statement of the API has no use for
        request = etcd_pb2.RangeRequest(key=b"/scheduler/jobs/", range_end=b"/scheduler/jobs0").SerializeToString()
        answer = etcd_pb2.RangeResponse.FromString(rpc(request + serializable, timeout=30))
        return [kv.key for kv in answer.kvs]


def succeeds(client: Client, name: str) -> bool:
    try:
        client.schedule(name, due_time="1h", overwrite=True)
    except grpc.RpcError:
        return False
    return True


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--etcd-embed=true", "--etcd-client-endpoints=x"], "cannot use --etcd-client-endpoints with --etcd-embed"),
        (["--etcd-embed=true", "--etcd-client-username=x"], "cannot use --etcd-client-username with --etcd-embed"),
        (["--etcd-embed=true", "--etcd-client-password-file=x"], "cannot use --etcd-client-password with --etcd-embed"),
        (["--etcd-embed=false"], "must specify --etcd-client-endpoints when not using embedded etcd"),
    ],
)
def test_embed_flagerrors(flags: list[str], text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scheduler", "serve", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert text in done.stdout + done.stderr


def embedded(tmp_path: Path, client_port: int, *flags: str) -> Replica:
    """A replica with an etcd of its own."""
    return Replica(
        "embedded",
        tmp_path,
        "",
        f"--etcd-client-port={client_port}",
        "--etcd-embed=true",
        "--etcd-client-endpoints=",
        *flags,
    )


def test_embed_single_and_restart(tmp_path: Path) -> None:
    """One process with its own etcd, whose data a restart finds, and whose metrics stand beside ours (metrics/etcd.go)."""
    replica = embedded(tmp_path, free_port()).start().wait_healthy()
    with urlopen(f"http://127.0.0.1:{replica.metrics_port}/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    assert re.search(r"^etcd_server_has_leader 1$", metrics, re.MULTILINE)
    assert re.search(r"^etcd_mvcc_db_total_size_in_bytes \S+$", metrics, re.MULTILINE)
    assert len(re.findall(r"^process_cpu_seconds_total ", metrics, re.MULTILINE)) == 1
    client = Client(replica.address)
    client.schedule("x", due_time="1h")
    assert replica.terminate() == 0
    replica.start().wait_healthy()
    assert client.get("x").due_time == "1h"
    client.close()
    assert replica.terminate() == 0


def test_embed_retry(tmp_path: Path) -> None:
    """etcd's client port is taken: the process stays alive, not ready, says so, and recovers when the port is free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        replica = embedded(tmp_path, taken.getsockname()[1]).start()
        wait_until(lambda: "etcd_not_started" in replica.tail(), timeout_s=30, what="it says that etcd cannot start")
        assert not replica.healthy()
        assert replica.process.poll() is None
    replica.wait_healthy(timeout_s=30)
    assert replica.terminate() == 0


def test_leases(cluster) -> None:
    """One replica, one lease; when it is revoked from outside there is a new one soon, and jobs are accepted and fire."""
    one = cluster(1)
    leases = lease_ids(one.etcd)
    assert len(leases) == 1
    watcher, client = Watcher(one.addresses), Client(one.addresses[0])
    revoke(one.etcd, leases[0])
    wait_until(
        lambda: len(lease_ids(one.etcd)) == 1 and lease_ids(one.etcd) != leases, timeout_s=30, what="a new lease"
    )
    client.schedule("x", due_time="0s")
    wait_until(lambda: watcher.hits, timeout_s=30, what="it fires")
    watcher.close()
    client.close()


def lease_ids(etcd: EtcdServer) -> list[int]:
    """The leases that the keys in etcd hang on."""
    with grpc.insecure_channel(f"127.0.0.1:{etcd.port}") as channel:
        rpc = channel.unary_unary("/etcdserverpb.KV/Range")
        answer = rpc(
            etcd_pb2.RangeRequest(key=b"/scheduler/members/", range_end=b"/scheduler/members0").SerializeToString(),
            timeout=30,
        )
        return sorted({kv.lease for kv in etcd_pb2.RangeResponse.FromString(answer).kvs if kv.lease})


def revoke(etcd: EtcdServer, lease: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{etcd.port}") as channel:
        rpc = channel.unary_unary("/etcdserverpb.Lease/LeaseRevoke")
        rpc(etcd_pb2.LeaseRevokeRequest(ID=lease).SerializeToString(), timeout=30)


def test_shutdown_stalledwatch(cluster) -> None:
    """A WatchJobs stream that never sent its first message does not hold up the end."""
    replica = cluster(1).replicas[0]
    with grpc.insecure_channel(replica.address) as channel:
        rpc = channel.stream_stream(f"{SERVICE}/WatchJobs")
        never = iter(lambda: time.sleep(60) or b"", None)
        call = rpc(never)
        grpc.channel_ready_future(channel).result(timeout=30)
        started = time.monotonic()
        replica.process.send_signal(signal.SIGINT)
        assert replica.process.wait(30) == 0
        assert time.monotonic() - started < 30
        call.cancel()


def test_a_draining_replica_answers_cancelled_and_closes_its_streams(cluster) -> None:
    """Sidecars go to the next host on CANCELLED, and on nothing else (5.9)."""
    one = cluster(1)
    replica = one.replicas[0]
    watcher = Watcher(one.addresses)
    wait_until(lambda: watcher.connected, timeout_s=30, what="a stream")
    client = Client(replica.address)
    statuses: set[grpc.StatusCode] = set()
    replica.process.send_signal(signal.SIGTERM)
    while replica.process.poll() is None:
        try:
            client.call("GetJob", pb.GetJobRequest(name="x", metadata=job_metadata()), timeout=30)
        except grpc.RpcError as error:
            statuses.add(error.code())
    assert statuses <= {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}, statuses
    assert replica.process.returncode == 0
    assert watcher.errors
    watcher.close()
    client.close()


def test_members_are_visible_to_an_independent_reader(etcd: EtcdServer, tmp_path: Path) -> None:
    """What harnesses read instead of the reference's leadership keys: members and claims under --etcd-root."""
    replica = Replica("one", tmp_path / "one", etcd.endpoint, "--etcd-root=/elsewhere").start().wait_healthy()
    reader = EtcdReader(etcd.port)
    assert list(reader.range("/elsewhere/members/")) == ["/elsewhere/members/one"]
    wait_until(lambda: len(reader.range("/elsewhere/claims/")) == 128, timeout_s=30, what="the claims")
    assert all(re.fullmatch(r"/elsewhere/claims/\d+", key) for key in reader.range("/elsewhere/claims/"))
    assert not reader.range("/scheduler/")
    reader.close()
    assert replica.terminate() == 0
