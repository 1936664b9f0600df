"""The operators' API on real replicas: what it tells, who may ask, and what is said to those who may not."""

from urllib.request import urlopen

import grpc
import pytest

from tests.support.admin import Operator
from tests.support.certificates import Authority
from tests.support.client import Client, Watcher
from tests.support.processes import wait_until

pytestmark = pytest.mark.e2e


def test_members_partitions_and_status_agree_with_what_etcd_holds(cluster) -> None:
    one = cluster(2)
    operators = {replica.name: Operator(replica.address) for replica in one.replicas}
    watcher, client = Watcher(one.addresses), Client(one.addresses[0])
    for number in range(20):
        client.schedule(f"job-{number}", schedule="@every 1s" if number == 0 else "@every 1h")
    owners = one.reader.owners()
    wait_until(lambda: len(watcher.hits) > 1, timeout_s=30, what="triggers")

    for name, operator in operators.items():
        members = operator.call("ListMembers")
        assert members.replica == name
        assert [(member.replica, member.address, member.state) for member in members.members] == [
            (replica.name, replica.address, "serving") for replica in one.replicas
        ]
        assert all(member.joined_revision > 0 and member.started_unix_ms > 0 for member in members.members)
        assert {member.replica: member.partitions for member in members.members} == {
            replica: list(owners.values()).count(replica) for replica in set(owners.values())
        }

    jobs, found = 0, {}
    for name, operator in operators.items():
        for partition in operator.call("ListPartitions").partitions:
            assert partition.owner == owners[partition.number] and partition.epoch > 0 and partition.lease_id
            assert partition.HasField("owned") == (partition.owner == name)
            if partition.HasField("owned"):
                assert partition.owned.phase == "firing"
                found[partition.number] = name
                jobs += partition.owned.jobs
    assert found == owners and jobs == 20

    statuses = [operator.call("GetStatus", with_etcd=True) for operator in operators.values()]
    assert sum(status.load.jobs for status in statuses) == 20
    assert sum(status.totals.sent for status in statuses) >= 2
    assert sum(sum(status.totals.lateness.counts) for status in statuses) >= 2
    for status in statuses:
        assert status.ready and not status.not_ready and not status.drained
        assert status.lease_id and 0 < status.lease_trusted_s <= 5
        assert status.partition_count == 128 and status.load.streams == 1
        assert len(status.etcd) == 1 and not status.etcd[0].problem and status.etcd[0].leader
        assert status.etcd[0].version.startswith("3.") and status.etcd[0].revision > 20
        assert status.etcd[0].db_bytes >= status.etcd[0].db_used_bytes > 0
    assert not operators["replica-0"].call("GetStatus").etcd
    watcher.close()
    client.close()
    for operator in operators.values():
        operator.close()


def test_an_etcd_that_does_not_answer_is_told_and_the_rest_too(cluster) -> None:
    one = cluster(1)
    operator = Operator(one.addresses[0])
    one.etcd.kill()
    status = operator.call("GetStatus", with_etcd=True)
    assert len(status.etcd) == 1 and status.etcd[0].problem and not status.etcd[0].version
    assert status.member.replica == "replica-0"
    operator.close()


OPERATOR = "spiffe://public/ns/ops/admin"
OTHER = "spiffe://public/ns/default/shop"


def test_mutual_tls_lets_in_whom_the_flag_names_and_says_who_was_not(cluster, tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.leaf("scheduler", ["spiffe://localhost/ns/dapr-system/dapr-scheduler"])
    flags = [f"--tls-cert-file={certificate}", f"--tls-key-file={key}", f"--tls-ca-file={authority.ca_file}"]
    one = cluster(
        1, *flags, "--admin-identities=spiffe://public/ns/ops/*,spiffe://localhost/ns/x/y", settle_hosts=False
    )
    replica = one.replicas[0]
    admin = Operator(f"localhost:{replica.port}", authority, authority.leaf("admin", [OPERATOR]))
    assert admin.call("GetStatus").process.mutual_tls
    assert len(admin.call("ListPartitions").partitions) == 128
    other = Operator(f"localhost:{replica.port}", authority, authority.leaf("shop", [OTHER]))
    for method in ("GetStatus", "ListMembers", "ListPartitions"):
        with pytest.raises(grpc.RpcError) as caught:
            other.call(method)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == f"{OTHER} is not among this replica's --admin-identities"
    wait_until(lambda: "ListPartitions" in replica.log.read_text(), timeout_s=30, what="the last line")
    denied = [line for line in replica.log.read_text().splitlines() if " denied " in line]
    metrics = urlopen(f"http://127.0.0.1:{replica.metrics_port}/metrics", timeout=30).read().decode()
    handled = 'grpc_server_handled_total{{grpc_code="{}",grpc_method="GetStatus",grpc_service="scheduler.admin.v1.Admin"}} 1.0'
    assert handled.format("OK") in metrics and handled.format("PERMISSION_DENIED") in metrics
    assert len(denied) == 3 and all(f"identity={OTHER}" in line and "PERMISSION_DENIED" in line for line in denied)
    admin.close()
    other.close()


def test_bytes_that_are_no_request_cost_nobody_else_anything(cluster) -> None:
    operator = Operator(cluster(1).addresses[0])
    for method in ("GetStatus", "ListMembers", "ListPartitions"):
        with pytest.raises(grpc.RpcError) as caught:
            operator.raw(method, b"\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert operator.call("GetStatus").ready
    operator.close()
