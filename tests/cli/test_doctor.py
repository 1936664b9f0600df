"""`scheduler doctor`: each rule on a picture that it is about, and the whole on real replicas, well and not."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from scheduler._pb.scheduler_admin.v1 import admin_pb2 as pb
from scheduler.cli.checks import Picture, Result, examine
from scheduler.cli.members import Seen
from tests.cli.test_cli import run
from tests.faults.machine import MissingTool, faketime_library
from tests.support.certificates import Authority
from tests.support.processes import ROOT, EtcdServer, Replica, free_port, wait_until

NOW = 1_800_000_000.0


def etcd(**more) -> pb.EtcdEndpoint:
    fields = {"endpoint": "etcd-0:2379", "version": "3.5.21", "revision": 7, "leader": True, "db_bytes": 1 << 20}
    return pb.EtcdEndpoint(**{**fields, "answer_s": 0.002, **more})


def status(**more) -> pb.GetStatusResponse:
    process = pb.Process(open_files_max=1 << 20, **more.pop("process", {}))
    return pb.GetStatusResponse(**{"ready": True, "etcd": [etcd()], "process": process, **more})


def seen(name: str = "a", address: str = "127.0.0.1:1", version: str = "1.0", found=None, **more) -> Seen:
    return Seen(pb.Member(replica=name, address=address, version=version), found or status(), **more)


def picture(*members: Seen, **more) -> Picture:
    members = members or (seen("a"), seen("b"))
    owned = pb.OwnedPartition(phase="firing")
    partitions = [pb.Partition(number=number, owner="a", owned=owned) for number in range(4)]
    return Picture(
        **{"address": "127.0.0.1:1", "tls": False, "now_s": NOW, "members": members, "partitions": partitions, **more}
    )


def found(check: str, one: Picture) -> tuple[Result, str]:
    """The worst finding of a rule, and all that it says."""
    findings = [finding for finding in examine(one) if finding.check == check]
    assert findings, check
    order = [Result.OK, Result.WARN, Result.FAIL]
    worst = max((finding.result for finding in findings), key=order.index)
    for finding in findings:
        assert bool(finding.advice) == (finding.result is not Result.OK), finding
    return worst, "; ".join(finding.found for finding in findings)


def test_what_is_well_is_all_ok() -> None:
    findings = examine(picture())
    assert {one.result for one in findings} == {Result.OK}
    assert {one.check for one in findings} == {
        "dns",
        "members",
        "partitions",
        "firing",
        "etcd",
        "quota",
        "clocks",
        "tls",
        "files",
    }


WEEK_S = 7 * 86_400
LONG = status(process={"mutual_tls": True, "certificates_end_unix_s": {"server": NOW + 9 * WEEK_S}})
LATE = pb.Totals(lateness=pb.Histogram(bounds_s=[1.0, 5.0], counts=[1, 99, 0], total_s=1))


@pytest.mark.parametrize(
    ("check", "one", "result", "text"),
    [
        ("members", picture(seen("a"), Seen(pb.Member(replica="b", address="h:1"), None, "refused")), Result.FAIL, "b at h:1 does not answer: refused"),
        ("members", picture(seen("a"), seen("b", found=status(drained=True, ready=False))), Result.WARN, "b is drained"),
        ("members", picture(seen("a"), seen("b", found=status(ready=False, not_ready="no lease"))), Result.FAIL, "b is not ready: no lease"),
        ("members", picture(seen("a"), seen("b", version="1.1")), Result.WARN, "several versions run: 1.0, 1.1"),
        ("members", picture(seen("a")), Result.WARN, "one replica alone"),
        ("dns", picture(unknown_hosts={"x.y": "no such name"}), Result.FAIL, "'x.y' does not resolve: no such name"),
        ("partitions", picture(partitions=[pb.Partition(number=3)]), Result.FAIL, "1 of 1 have no owner, 3 for one"),
        ("partitions", picture(partitions=[pb.Partition(owner="a", owned=pb.OwnedPartition(phase="loading"))]), Result.WARN, "1 are being loaded"),
        ("firing", picture(seen(found=status(load=pb.Load(oldest_due_s=9, streams=1)))), Result.FAIL, "a: a job is due since 9s"),
        ("firing", picture(seen(found=status(load=pb.Load(oldest_due_s=61, staged=5)))), Result.WARN, "a: 5 due jobs wait for a stream"),
        ("firing", picture(seen(found=status(totals=LATE))), Result.WARN, "99 of 100 triggers leave within 4"),
        ("etcd", picture(seen(found=status(etcd=[etcd(problem="refused", version="")]))), Result.FAIL, "does not answer: refused"),
        ("etcd", picture(seen("a"), seen("b", found=status(etcd=[etcd(problem="cut")]))), Result.FAIL, "answers some members only: cut"),
        ("etcd", picture(seen(found=status(etcd=[etcd(version="3.4.23")]))), Result.WARN, "3.4.23, with faults"),
        ("etcd", picture(seen(found=status(etcd=[etcd(version="3.5.1")]))), Result.FAIL, "3.5.1, which can lose data"),
        ("etcd", picture(seen(found=status(etcd=[etcd(version="3.3.25")]))), Result.FAIL, "which nobody maintains"),
        ("etcd", picture(seen(found=status(etcd=[etcd(version="3.6.0-rc.1")]))), Result.OK, "revision 7"),
        ("etcd", picture(seen(found=status(etcd=[etcd(errors=["alarm:NOSPACE"])]))), Result.FAIL, "alarm:NOSPACE"),
        ("etcd", picture(seen(found=status(etcd=[etcd(answer_s=0.7)]))), Result.WARN, "took 700 ms"),
        ("etcd", picture(seen(found=status(etcd=[etcd(leader=False)]))), Result.WARN, "no endpoint leads"),
        ("quota", picture(seen(found=status(etcd=[etcd(db_bytes=97, quota_bytes=100)]))), Result.FAIL, "97% of the quota of 100 B"),
        ("quota", picture(seen(found=status(etcd=[etcd(db_bytes=81, quota_bytes=100)]))), Result.WARN, "81% of the quota"),
        ("quota", picture(seen(found=status(etcd=[etcd(db_bytes=2 << 30)]))), Result.WARN, "100% of the default quota of 2.0 GiB"),
        ("clocks", picture(seen("a"), seen("b", ahead_s=-0.5)), Result.WARN, "a's clock is 0.50 s before b's"),
        ("clocks", picture(seen("a"), seen("b", ahead_s=3.0)), Result.FAIL, "b's clock is 3.00 s before a's"),
        ("clocks", picture(seen("a"), seen("b", ahead_s=3.0, within_s=2.95)), Result.OK, "agree within 0.1 s"),
        ("clocks", picture(seen("a", ahead_s=5.0), seen("b", ahead_s=5.0)), Result.WARN, "this machine's is -5.00 s from"),
        ("tls", picture(certificate_ends_s=NOW - 60), Result.FAIL, "our own certificate (--tls-cert-file) ended 1m ago"),
        ("tls", picture(seen(found=status(process={"certificates_end_unix_s": {"server": NOW + 3_600}}))), Result.WARN, "a's server certificate ends in 1h"),
        ("tls", picture(seen(address="10.0.0.7:1")), Result.WARN, "a lets anybody on the network in"),
        ("tls", picture(seen(address="10.0.0.7:1", found=LONG)), Result.OK, "the first ends in 63d"),
        ("files", picture(seen(found=pb.GetStatusResponse(ready=True, process=pb.Process(open_files_max=1_024)))), Result.WARN, "a may open 1024 files"),
    ],
)  # fmt: skip
def test_each_rule(check: str, one: Picture, result: Result, text: str) -> None:
    worst, says = found(check, one)
    assert worst is result and text in says, says


def test_a_cluster_that_is_well(cluster) -> None:
    one = cluster(2)
    check = ["cluster", "partitions", f"--address={one.addresses[0]}", "-o", "json"]
    wait_until(
        lambda: all(partition["phase"] == "firing" for partition in json.loads(run(*check)[1])),
        timeout_s=30,
        what="every partition is loaded",
    )
    code, text = run("doctor", f"--address={one.addresses[0]}")
    results = {tuple(line.split()[:2]) for line in text.splitlines() if not line.startswith(" ")}
    assert code == 0 and ("ok", "partitions") in results and ("ok", "clocks") in results, text
    assert {check for result, check in results if result != "ok"} <= {"etcd"}, text
    one.etcd.kill()
    code, text = run("doctor", f"--address={one.addresses[0]}", "-o", "json")
    failed = [finding for finding in json.loads(text) if finding["result"] == "fail"]
    assert code == 1 and any(finding["check"] == "etcd" and "does not answer" in finding["found"] for finding in failed)


def clock_of(seconds: int) -> dict[str, str]:
    """An environment in which the wall clock is wrong by so much."""
    try:
        library = faketime_library()
    except MissingTool as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_a_clock_that_is_wrong(etcd: EtcdServer, tmp_path) -> None:
    shifted = clock_of(7)
    right = Replica("right", tmp_path / "right", etcd.endpoint)
    wrong = Replica("wrong", tmp_path / "wrong", etcd.endpoint, env=shifted)
    try:
        right.start()
        wrong.start().wait_healthy()
        right.wait_healthy()
        code, text = run("doctor", f"--address={right.address}")
        (apart,) = re.findall(r"wrong's clock is (\S+) s before right's", text)
        assert code == 1 and 6 < float(apart) < 7.1, text
        # What is wrong may be the clock of whoever looks.
        command = [sys.executable, "-m", "scheduler", "doctor", f"--address={right.address}"]
        ran = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **clock_of(-3_600)}, capture_output=True, text=True, check=False
        )
        (here,) = re.findall(r"this machine's is (\S+) s from right's", ran.stdout)
        assert -3_601 < float(here) < -3_599, ran.stdout
    finally:
        right.close()
        wrong.close()


def test_a_replica_that_has_never_seen_etcd(tmp_path) -> None:
    replica = Replica("alone", tmp_path, f"http://127.0.0.1:{free_port()}").start()
    try:
        wait_until(lambda: " serving " in replica.log.read_text(), timeout_s=30, what="its port is open")
        code, text = run("doctor", f"--address={replica.address}")
        assert code == 1 and "alone is not ready: no trusted lease in etcd" in text and "does not answer" in text
        assert "start it, or look at --etcd-client-endpoints" in text
    finally:
        replica.close()


def test_no_scheduler_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(__import__("scheduler.cli.doctor", fromlist=["_PORTS"])._PORTS, "--healthz-port", port)
        code, text = run("doctor", f"--address=127.0.0.1:{free_port()}")
    assert code == 3 and "Nothing listens at" in text
    assert f"{port} is not to be had here" in text and "another --healthz-port" in text and "etcd binary" in text


def test_who_may_not_look_is_told_so(cluster, tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.leaf("scheduler", ["spiffe://localhost/ns/dapr-system/dapr-scheduler"])
    flags = [f"--tls-cert-file={certificate}", f"--tls-key-file={key}", f"--tls-ca-file={authority.ca_file}"]
    flags += ["--admin-identities=spiffe://public/ns/ops/admin"]
    replica = cluster(1, *flags, settle_hosts=False).replicas[0]
    mine, its_key = authority.leaf("shop", ["spiffe://public/ns/default/shop"])
    tls = [f"--tls-ca-file={authority.ca_file}", f"--tls-cert-file={mine}", f"--tls-key-file={its_key}"]
    code, text = run("doctor", f"--address=localhost:{replica.port}", *tls)
    assert code == 1 and "permission" in text and "spiffe://public/ns/default/shop is not among" in text
    mine, its_key = authority.leaf("admin", ["spiffe://public/ns/ops/admin"])
    tls = [f"--tls-ca-file={authority.ca_file}", f"--tls-cert-file={mine}", f"--tls-key-file={its_key}"]
    code, text = run("doctor", f"--address=localhost:{replica.port}", "--tls-server-name=localhost", *tls)
    assert code == 0 and "replica-0's server certificate ends in" in text
    assert "our own certificate (--tls-cert-file) ends in" in text
