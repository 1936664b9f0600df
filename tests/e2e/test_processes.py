"""`scheduler serve --processes N`: members of their own, started again when they die, drained together, one health and one metrics endpoint for all."""

import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.client import Client, EtcdReader, Watcher, hosts_of, job_metadata
from tests.support.processes import EtcdServer, Replica, free_port, free_ports, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.etcd]


def serve(directory: Path, endpoint: str, *arguments: str) -> Replica:
    one = Replica("host", directory, endpoint, "--processes=2", *arguments)
    one.port = free_ports(2)
    return one.start()


@pytest.fixture
def host(etcd: EtcdServer, tmp_path: Path) -> Iterator[Replica]:
    one = serve(tmp_path / "host", etcd.endpoint).wait_healthy()
    yield one
    one.close()


def pids(host: Replica) -> dict[str, int]:
    """The latest process of each replica."""
    return {
        name: int(pid) for name, pid in re.findall(r"process_started id=(\S+) port=\d+ pid=(\d+)", host.log.read_text())
    }


def addresses(host: Replica) -> list[str]:
    return [f"127.0.0.1:{host.port + index}" for index in range(2)]


def metrics(host: Replica) -> str:
    with urlopen(f"http://127.0.0.1:{host.metrics_port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def settled(reader: EtcdReader) -> bool:
    counts = Counter(reader.owners().values())
    return set(counts) == {"host-0", "host-1"} and sum(counts.values()) == 128 and min(counts.values()) >= 60


def test_one_dies_and_comes_back_and_nothing_is_lost(host: Replica, etcd: EtcdServer) -> None:
    reader, (first, second) = EtcdReader(etcd.port), addresses(host)
    wait_until(lambda: settled(reader), timeout_s=30, what="both own their share")
    assert sorted(hosts_of(first)) == [first, second]
    client, watcher = Client(first), Watcher([first, second], app_id="app")
    wait_until(lambda: watcher.connected == {first, second}, timeout_s=30, what="streams stand")
    for number in range(40):
        client.schedule(f"job-{number}", metadata=job_metadata(), schedule="@every 1s", repeats=12)
    wait_until(lambda: len(watcher.hits) >= 80, timeout_s=30, what="all have fired")
    before = pids(host)
    os.kill(before["host-1"], signal.SIGKILL)
    wait_until(lambda: not host.healthy(), timeout_s=30, what="the host says that one is missing")
    wait_until(lambda: pids(host)["host-1"] != before["host-1"], timeout_s=30, what="it is started again")
    host.wait_healthy()
    assert pids(host)["host-0"] == before["host-0"]
    wait_until(lambda: settled(reader), timeout_s=30, what="it owns its share again")

    def distinct() -> Counter[str]:
        return Counter(name for name, _ in {(hit.name, hit.scheduled_ns) for hit in list(watcher.hits)})

    wait_until(lambda: sum(distinct().values()) >= 480, timeout_s=40, what="every job has fired twelve times")
    assert set(distinct().values()) == {12} and len(distinct()) == 40
    watcher.close()
    client.close()
    reader.close()


def test_health_and_metrics_are_one_for_all(host: Replica) -> None:
    text = metrics(host)
    ready = re.findall(r'^scheduler_ready\{process="(\d)"\} (\S+)$', text, re.MULTILINE)
    assert ready == [("0", "1.0"), ("1", "1.0")]
    assert len(re.findall(r"^# TYPE scheduler_ready ", text, re.MULTILINE)) == 1
    assert not [line for line in text.splitlines() if line and line[0] != "#" and 'process="' not in line]
    os.kill(pids(host)["host-0"], signal.SIGSTOP)
    try:
        wait_until(lambda: not host.healthy(), timeout_s=30, what="one that does not answer is no ready host")
        began = time.monotonic()
        assert 'scheduler_ready{process="1"} 1.0' in metrics(host) and time.monotonic() - began < 20
    finally:
        os.kill(pids(host)["host-0"], signal.SIGCONT)


def test_sigterm_drains_all(host: Replica, etcd: EtcdServer) -> None:
    reader, running = EtcdReader(etcd.port), pids(host)
    assert host.terminate() == 0
    assert reader.owners() == {} and reader.range("/scheduler/members/") == {}
    assert not any(Path(f"/proc/{pid}").exists() for pid in running.values())
    assert host.log.read_text().count("stopped id=host-") == 2
    reader.close()


def test_sigterm_before_they_have_started_is_no_failure(etcd: EtcdServer, tmp_path: Path) -> None:
    host = serve(tmp_path / "host", etcd.endpoint)
    wait_until(lambda: len(pids(host)) == 2, timeout_s=30, what="both processes are there")
    assert host.terminate() == 0
    host.close()


def test_sighup_before_they_have_started_ends_nobody(etcd: EtcdServer, tmp_path: Path) -> None:
    host = serve(tmp_path / "host", etcd.endpoint)
    try:
        wait_until(lambda: len(pids(host)) == 2, timeout_s=30, what="both processes are there")
        host.process.send_signal(signal.SIGHUP)
        running = pids(host)
        host.wait_healthy()
        host.process.send_signal(signal.SIGHUP)
        assert host.terminate() == 0
        assert pids(host) == running and host.log.read_text().count("stopped id=host-") == 2
    finally:
        host.close()


def test_sighup_reaches_every_replica(etcd: EtcdServer, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.yaml"
    file.write_text("log-level: info\n")
    host = serve(tmp_path / "host", etcd.endpoint, f"--config-file={file}")
    try:
        running = pids(host.wait_healthy())
        # The file is as it was: nobody would read it again unasked.
        host.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: host.log.read_text().count("settings_reloaded") == 3,
            timeout_s=30,
            what="the supervisor and both replicas have read it",
        )
        assert host.terminate() == 0 and pids(host) == running
    finally:
        host.close()


def test_none_outlives_a_supervisor_that_is_killed(host: Replica) -> None:
    running = pids(host)
    host.kill()

    def ended(pid: int) -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    wait_until(lambda: all(map(ended, running.values())), timeout_s=30, what="the replicas end with it")


def test_the_embedded_etcd_is_the_supervisors(tmp_path: Path) -> None:
    host = serve(tmp_path, "", "--etcd-embed=true", "--etcd-client-endpoints=", f"--etcd-client-port={free_port()}")
    try:
        host.wait_healthy(40)
        client = Client(addresses(host)[1])
        client.schedule("job", metadata=job_metadata(), due_time="1h")
        assert [job.name for job in client.list(job_metadata())] == ["job"]
        client.close()
        assert "etcd_server_has_leader" in metrics(host)
        assert host.terminate(30) == 0
    finally:
        host.close()


def test_a_replica_that_is_refused_at_its_start_ends_all_with_its_reason(etcd: EtcdServer, tmp_path: Path) -> None:
    with socket.socket() as taken:
        first = free_ports(2)
        taken.bind(("127.0.0.1", first + 1))
        taken.listen()
        host = Replica("host", tmp_path / "host", etcd.endpoint, "--processes=2")
        host.port = first
        host.start()
        assert host.process is not None
        assert host.process.wait(30) == 1
        assert (
            f"{first + 1}" in host.tail()
            and "process_refused id=host-1" in host.tail()
            and "Traceback" not in host.tail()
        )
