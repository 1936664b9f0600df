"""The file of settings while a process runs: a new log level takes effect, a bad file is refused, and flags stay before it."""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.processes import EtcdServer, Replica, Sidecar, free_port, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.etcd]


def metric(port: int, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        (value,) = re.findall(rf"^{name} (.*)$", answer.read().decode(), re.MULTILINE)
    return float(value)


@pytest.fixture
def start(etcd: EtcdServer, tmp_path: Path):
    made: list[Replica] = []

    def make(file: Path, *arguments: str) -> Replica:
        one = Replica("a", tmp_path / "a", etcd.endpoint, f"--config-file={file}", *arguments)
        made.append(one)
        return one.start().wait_healthy()

    yield make
    for one in made:
        one.close()


def wait_for(one: Replica | Sidecar, text: str, times: int = 1) -> None:
    wait_until(lambda: len(re.findall(text, one.log.read_text())) >= times, timeout_s=30, what=f"{text} in the log")


def test_a_replica_takes_a_new_log_level_and_refuses_a_bad_file(start: Callable[..., Replica], tmp_path: Path) -> None:
    file = tmp_path / "scheduler.yaml"
    file.write_text("log-level: warn\nlease-ttl: 5\n")
    replica = start(file)
    assert " info " not in replica.log.read_text()
    began = metric(replica.metrics_port, "scheduler_config_reload_timestamp_seconds")
    assert began > 0 and metric(replica.metrics_port, "scheduler_config_reload_success") == 1

    file.write_text("log-level: debug\nlease-ttl: 7\n")
    replica.process.send_signal(signal.SIGHUP)
    wait_for(replica, "settings_reloaded .*changed=log-level")
    wait_for(replica, "settings_wait_for_a_restart settings=lease-ttl")
    taken = metric(replica.metrics_port, "scheduler_config_reload_timestamp_seconds")
    assert taken > began

    # Nobody sends a signal: a changed file is seen by itself, and what cannot be is said with its line.
    file.write_text("log-level: loud\n")
    wait_for(replica, r"settings_refused .*scheduler.yaml:1: log-level: 'loud' is not one of")
    assert metric(replica.metrics_port, "scheduler_config_reload_success") == 0
    assert metric(replica.metrics_port, "scheduler_config_reload_timestamp_seconds") == taken
    file.write_text("partitions: 0\n")
    replica.process.send_signal(signal.SIGHUP)
    wait_for(replica, "settings_refused .*--partitions is 0")
    file.unlink()
    replica.process.send_signal(signal.SIGHUP)
    wait_for(replica, "settings_refused .*No such file")
    assert replica.process.poll() is None and replica.healthy()

    file.write_text("log-level: info\n")
    replica.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: metric(replica.metrics_port, "scheduler_config_reload_success") == 1,
        timeout_s=30,
        what="the file is taken",
    )
    assert replica.terminate() == 0


def test_a_mounted_file_is_exchanged_by_a_link_and_a_flag_goes_before_it(
    start: Callable[..., Replica], tmp_path: Path
) -> None:
    """As the kubelet does it: the file is a link into a directory that is itself exchanged."""
    for name, level in (("one", "info"), ("two", "error")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"log-level: {level}\n")
    data = tmp_path / "..data"
    data.symlink_to("one")
    replica = start(data / "config.yaml", "--log-level=info")
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").rename(data)
    # The flag's level is in force: the line that says so is an info.
    wait_for(replica, 'settings_reloaded .*changed=""')
    assert replica.terminate() == 0
    assert "stopped" in replica.log.read_text()


def test_without_a_file_there_is_nothing_to_reload_and_no_end(etcd: EtcdServer, tmp_path: Path) -> None:
    replica = Replica("a", tmp_path / "a", etcd.endpoint).start().wait_healthy()
    try:
        replica.process.send_signal(signal.SIGHUP)
        wait_for(replica, "no_file_of_settings_to_reload")
        assert replica.healthy()
    finally:
        assert replica.terminate() == 0


def test_a_sidecar_too(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("app-id: x\nlog-level: error\n")
    port = free_port()
    sidecar = Sidecar(tmp_path, [], f"--config-file={file}", f"--metrics-port={port}").start()
    try:
        began = metric(port, "scheduler_config_reload_timestamp_seconds")
        assert began > 0 and metric(port, "scheduler_config_reload_success") == 1
        file.write_text("app-id: x\nlog-level: info\napp-port: 7\n")
        sidecar.process.send_signal(signal.SIGHUP)
        wait_for(sidecar, "settings_reloaded .*changed=log-level")
        wait_for(sidecar, "settings_wait_for_a_restart settings=app-port")
        assert metric(port, "scheduler_config_reload_timestamp_seconds") > began
        file.write_text("app-id: x\nlog-level: loud\n")
        sidecar.process.send_signal(signal.SIGHUP)
        wait_for(sidecar, "settings_refused")
        assert metric(port, "scheduler_config_reload_success") == 0
    finally:
        assert sidecar.terminate() == 0
