"""`scheduler top` on a terminal, against three real replicas: what a person sees, and the terminal that they get back."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from scheduler._pb.scheduler_admin.v1 import admin_pb2 as pb
from scheduler.cli.members import Seen
from scheduler.cli.top import between, frame
from tests.conftest import Cluster
from tests.support.client import Client, Watcher
from tests.support.processes import ROOT, EtcdServer, wait_until
from tests.support.terminal import Terminal

pytestmark = pytest.mark.e2e
JOBS = 12


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("busy")
    etcd = EtcdServer(directory / "etcd").start()
    cluster = Cluster(etcd, directory).start(3)
    client, watcher = Client(cluster.addresses[0]), Watcher(cluster.addresses)
    for number in range(JOBS):
        client.schedule(f"tick-{number}", schedule="@every 1s")
    wait_until(lambda: len(watcher.by_name()) == JOBS, timeout_s=30, what="every job has fired")
    yield cluster
    watcher.close()
    client.close()
    cluster.close()
    etcd.close()


def top(cluster: Cluster, *arguments: str, **more) -> Terminal:
    return Terminal("top", f"--address={cluster.addresses[0]}", "--interval=0.5", *arguments, **more)


def test_it_shows_rates_and_lateness_of_each_member_and_goes_on(busy: Cluster) -> None:
    with top(busy) as terminal:
        terminal.wait_for("q quits")
        assert "3 members  128/128 partitions owned  12 jobs  3 streams" in terminal.text
        seen: dict[str, float] = {}
        while len(seen) < 3:
            before = len(terminal.raw)
            while len(terminal.raw) == before:
                assert terminal._read(5), "no next frame"
            for name in ("replica-0", "replica-1", "replica-2"):
                cells = terminal.line(name).split()
                if len(cells) > 8 and re.fullmatch(r"\d+\.\d", cells[5]) and float(cells[5]) > 0:
                    seen[name] = float(cells[5])
        assert re.search(r"late p50 \d+\.\d ms p99 \d", terminal.text)
        assert b"\x1b[1m" in terminal.raw
        terminal.press("q")
        assert terminal.wait() == 0
        terminal.check_sane()


@pytest.mark.parametrize("key", ["q", "Q", "\x03", "\x04", "\x1b"])
def test_it_leaves_by_key_and_gives_the_terminal_back(busy: Cluster, key: str) -> None:
    with top(busy) as terminal:
        terminal.wait_for("q quits")
        terminal.press("x\x1b[A\x1a")  # a letter, an arrow and Ctrl-Z mean nothing
        terminal.press("")
        terminal.wait_for("replica-2")
        assert terminal.process.poll() is None
        terminal.press(key)
        assert terminal.wait() == 0
        terminal.check_sane()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_by_signal_and_gives_the_terminal_back(busy: Cluster, number: signal.Signals) -> None:
    with top(busy) as terminal:
        terminal.wait_for("q quits")
        terminal.process.send_signal(number)
        assert terminal.wait() == 0
        terminal.check_sane()


def test_a_closed_window_ends_it(busy: Cluster) -> None:
    with top(busy) as terminal:
        terminal.wait_for("q quits")
        terminal.hang_up()
        terminal.wait()


def test_a_small_window_cuts_lines_and_a_large_one_has_them_again(busy: Cluster) -> None:
    with top(busy, columns=60, lines=8) as terminal:
        terminal.wait_for("REPLICA")
        assert "STAGED" not in terminal.text and all(len(line) <= 60 for line in terminal.text.splitlines())
        assert len(terminal.text.splitlines()) <= 8
        terminal.resize(140, 30)
        assert "UNCOMMITTED" in terminal.wait_for("q quits")
        terminal.press("q")
        assert terminal.wait() == 0


def test_no_color_and_pipes_have_none(busy: Cluster) -> None:
    with top(busy, env={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("q quits")
        terminal.press("q")
        assert terminal.wait() == 0
        assert not re.search(rb"\x1b\[[0-9;]*m", terminal.raw)
    with Terminal("cluster", "status", f"--address={busy.addresses[0]}") as terminal:
        assert terminal.wait() == 0 and b"\x1b[1mREPLICA" in terminal.raw
    command = [sys.executable, "-m", "scheduler", "top", f"--address={busy.addresses[0]}", "--interval=0.5"]
    piped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert "\x1b" not in piped.stdout and "replica-2" in piped.stdout and piped.stderr == ""
    assert "12 jobs  3 streams" in piped.stdout
    with top(busy, "--once") as terminal:
        assert terminal.wait() == 0 and b"?1049h" not in terminal.raw and "replica-2" in terminal.text


def test_a_member_that_hangs_or_dies_is_shown_and_quitting_does_not_wait_for_it(busy: Cluster) -> None:
    """Last in the file: it takes a member away."""
    with top(busy) as terminal:
        terminal.wait_for("q quits")
        victim = busy.replicas[2]
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            terminal.wait_for(f"replica-2 at {victim.address} does not answer: ", timeout_s=20)
        finally:
            os.kill(victim.pid, signal.SIGKILL)
        terminal.wait_for("2 members  128/128 partitions owned", timeout_s=20)
        busy.replicas[1].kill()
        busy.replicas[0].kill()
        terminal.wait_for("no news: ", timeout_s=20)
        terminal.press("q")
        assert terminal.wait(timeout_s=30) == 0
        terminal.check_sane()


def looked(sent: int, boottime_s: float, started: int = 1, counts=(), **more) -> Seen:
    lateness = pb.Histogram(bounds_s=[0.001, 0.01], counts=counts)
    status = pb.GetStatusResponse(
        member=pb.Member(replica="a", started_unix_ms=started),
        ready=True,
        totals=pb.Totals(sent=sent, lateness=lateness),
        process=pb.Process(boottime_s=boottime_s),
        **more,
    )
    return Seen(pb.Member(replica="a", state="serving"), status)


def test_rates_are_of_the_time_between_two_looks() -> None:
    rates = between(looked(100, 10.0).status, looked(350, 12.5, counts=[0, 250, 0]).status)
    assert rates is not None and rates.per_s(rates.totals.sent) == 100.0
    rates = between(looked(100, 10.0, counts=[100, 0, 0]).status, looked(102, 11.0, counts=[100, 2, 0]).status)
    assert rates is not None and list(rates.totals.lateness.counts) == [0, 2, 0]


def test_a_member_that_was_restarted_or_is_new_has_no_rate() -> None:
    assert between(looked(100, 10.0).status, looked(5, 12.0, started=2).status) is None
    assert between(None, looked(5, 12.0).status) is None
    shown = "\n".join(str(line) for line in frame([], [looked(5, 12.0)], at_s=0))
    assert "triggers 0.0/s" in shown and "late p50 - p99 -" in shown
