"""Attacks on one replica, each by a process of its own, and what a bystander on the same replica feels: its calls and its triggers.

The bounds. Of each connection a turn of the loop reads 8 KiB at most. The dearest that fits in there is some seventy WatchJobs streams that are opened and
reset, 7 to 10 ms of work; a bystander's call takes four or five turns, so 50 ms when the replica has nothing but that to do all the time. Twice that may be
added to the 99th percentile of calls, and the same to that of triggers, which is a tenth of their period. Memory: 64 MiB is what one connection may make us
hold; the slow readers here have two of those that hold anything, of which each stream is stopped at 1 MiB.
`BYSTANDER_SECONDS` makes each attack longer than the 3 s of CI.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from tests.conformance.conftest import Deployment
from tests.conftest import Cluster
from tests.support.attacker import ATTACKS, SLOW_APP
from tests.support.client import Client, job_metadata
from tests.support.processes import ROOT, EtcdServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]

SECONDS = float(os.environ.get("BYSTANDER_SECONDS", "3"))
BEFORE_S = 1.5
CALL_P99_MORE_S = 0.1
TRIGGER_P99_MORE_S = 0.1
RSS_GROWTH_MAX_BYTES = 96 << 20
JOBS = 40
# Together 38 MiB, more than ten streams of 1 MiB and two sockets take.
LARGE = 300
# The limit that each attack is stopped by; the others are simply borne.
REASONS = {
    "rapid_reset": "too many reset streams",
    "control_frames": "too many control frames",
    "continuations": "header block is too long",
    "garbage": "PROTOCOL_ERROR",
}


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Felt:
    """What the bystander has felt in a stretch of time."""

    call_p99_s: float
    trigger_p99_s: float
    calls: int
    triggers: int


class Bystander:
    """Calls 200 times a second; forty jobs that fire once a second, spread over it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.watcher = deployment.watch("bystander")
        now = time.time()
        for number in range(JOBS):
            start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now + 1)) + f".{number * 1000 // JOBS:03d}Z"
            deployment.schedule(
                f"tick{number}", metadata=deployment.job("bystander"), schedule="@every 1s", due_time=start
            )
        deployment.wait(lambda: len(self.watcher.hits) > JOBS, "the jobs fire")
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call, daemon=True)
        self.error: BaseException | None = None
        self._thread.start()

    def _call(self) -> None:
        client = Client(self.deployment.home.address)
        try:
            while not self._stop.wait(0.005):
                started = time.monotonic()
                client.get("tick0", self.deployment.job("bystander"))
                self._samples.append((started, time.monotonic() - started))
        except BaseException as error:
            self.error = error
        finally:
            client.close()

    def feel(self, seconds: float) -> Felt:
        calls, triggers = len(self._samples), len(self.watcher.hits)
        time.sleep(seconds)
        assert self.error is None, self.error
        calls_s = [taken for _, taken in self._samples[calls:]]
        late_s = [hit.late_s for hit in self.watcher.hits[triggers:]]
        return Felt(p99(calls_s), p99(late_s), len(calls_s), len(late_s))

    def gaps(self) -> list[str]:
        """Jobs of which an occurrence is missing or came twice."""
        found = []
        for name, hits in self.watcher.by_name().items():
            indexes = [hit.index for hit in hits]
            if indexes != list(range(indexes[0], indexes[0] + len(indexes))):
                found.append(name)
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)


@pytest.fixture(scope="module")
def bystander(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bystander]:
    directory = tmp_path_factory.mktemp("bystander")
    etcd = EtcdServer(directory / "etcd").start()
    cluster = Cluster(etcd, directory).start(1)
    deployment = Deployment(cluster)
    client = Client(deployment.home.address)
    for number in range(LARGE):
        # The slow readers' own jobs, due as soon as they connect.
        large = Any(value=bytes(128 << 10))
        client.schedule(f"large{number}", metadata=job_metadata(SLOW_APP), due_time="0s", data=large)
    client.close()
    one = Bystander(deployment)
    yield one
    one.close()
    deployment.close()
    cluster.close()
    etcd.close()


@pytest.mark.parametrize("kind", ATTACKS)
def test_bystanders(bystander: Bystander, kind: str) -> None:
    deployment = bystander.deployment
    pid = deployment.home.pid
    before = bystander.feel(BEFORE_S)
    refused = deployment.metric("scheduler_connection_refusals_total", reason=REASONS.get(kind, "-"))
    rss = rss_bytes(pid)
    command = [sys.executable, "-m", "tests.support.attacker", kind, str(deployment.home.port), str(SECONDS + 30)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attacker:
        assert attacker.stdout is not None
        # Interpreter and imports first: what counts is the attack.
        deployment.wait(lambda: kind == "half_open" or connected_to(deployment), "the attack has begun")
        during = bystander.feel(SECONDS)
        growth = rss_bytes(pid) - rss
        waiting = deployment.metric("scheduler_triggers_waiting")
        report = json.loads(attacker.communicate(timeout=60)[0])
    print(
        f"\n{kind}: calls p99 {before.call_p99_s * 1e3:.1f} -> {during.call_p99_s * 1e3:.1f} ms ({during.calls}), "
        f"triggers p99 {before.trigger_p99_s * 1e3:.1f} -> {during.trigger_p99_s * 1e3:.1f} ms ({during.triggers}), "
        f"memory {growth / 2**20:+.1f} MiB; {report}"
    )
    assert during.call_p99_s < before.call_p99_s + CALL_P99_MORE_S
    assert during.trigger_p99_s < before.trigger_p99_s + TRIGGER_P99_MORE_S
    assert during.triggers >= JOBS * (SECONDS - 1) and not bystander.gaps()
    assert growth < RSS_GROWTH_MAX_BYTES
    assert attacker.returncode == 0 and report["connections"] > 0
    if kind in REASONS:
        assert deployment.metric("scheduler_connection_refusals_total", reason=REASONS[kind]) > refused
    if kind == "slow_readers":
        assert 50 < waiting < LARGE, "the streams have taken what they may, and no more"
    if kind == "idle_connections":
        assert report == {"connections": 2_000, "cut": 0, "sent_bytes": 0}


def connected_to(deployment: Deployment) -> bool:
    """Whether somebody besides the bystander is connected."""
    return deployment.metric("scheduler_connections") > 3
