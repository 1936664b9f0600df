"""`scheduler bench` on a server of the contract that is not ours: a small scheduler on grpcio, good or with a fault."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.support.processes import ROOT, wait_until
from tests.support.reference import ReferenceScheduler

pytestmark = pytest.mark.e2e


class Stranger(ReferenceScheduler):
    """Keeps jobs in memory and fires each `copies` times at its due time, and each second again where it has a schedule."""

    def __init__(self, *, copies: int = 1, knows_hosts: bool = True) -> None:
        self.jobs: dict[tuple[str, str], pb.ScheduleJobRequest] = {}
        self.due: dict[tuple[str, str], float] = {}
        self.copies = copies
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        super().__init__(knows_hosts=knows_hosts)
        self.answers = {
            "ScheduleJob": self.schedule,
            "ListJobs": self.list,
            "DeleteJob": self.delete,
            "DeleteByNamePrefix": self.delete_prefix,
            "DeleteByMetadata": self.delete_app,
        }
        self._ticker = threading.Thread(target=self._tick)
        self._ticker.start()

    def schedule(self, data: bytes) -> bytes:
        request = pb.ScheduleJobRequest.FromString(data)
        text, key = request.job.due_time, (request.metadata.app_id, request.name)
        with self._lock:
            self.jobs[key] = request
            if not text.endswith("h"):
                self.due[key] = datetime.fromisoformat(text).timestamp()
        return pb.ScheduleJobResponse().SerializeToString()

    def list(self, data: bytes) -> bytes:
        app_id = pb.ListJobsRequest.FromString(data).metadata.app_id
        with self._lock:
            found = [pb.NamedJob(name=name, job=one.job) for (app, name), one in self.jobs.items() if app == app_id]
        return pb.ListJobsResponse(jobs=found).SerializeToString()

    def delete(self, data: bytes) -> bytes:
        request = pb.DeleteJobRequest.FromString(data)
        self._remove(lambda app, name: (app, name) == (request.metadata.app_id, request.name))
        return pb.DeleteJobResponse().SerializeToString()

    def delete_prefix(self, data: bytes) -> bytes:
        request = pb.DeleteByNamePrefixRequest.FromString(data)
        self._remove(lambda app, name: app == request.metadata.app_id and name.startswith(request.name_prefix))
        return pb.DeleteByNamePrefixResponse().SerializeToString()

    def delete_app(self, data: bytes) -> bytes:
        request = pb.DeleteByMetadataRequest.FromString(data)
        self._remove(lambda app, _name: app == request.metadata.app_id)
        return pb.DeleteByMetadataResponse().SerializeToString()

    def _remove(self, chosen) -> None:
        with self._lock:
            for key in [key for key in self.jobs if chosen(*key)]:
                del self.jobs[key]
                self.due.pop(key, None)

    def _tick(self) -> None:
        while not self._stopped.wait(0.005):
            now = time.time()
            with self._lock:
                for key in [key for key, at in self.due.items() if at <= now]:
                    stream = next(one for one in self.open if one.initial.app_id == key[0])
                    for _ in range(self.copies):
                        stream.send(key[1])
                    if self.jobs[key].job.schedule:
                        self.due[key] += 1
                    else:
                        del self.due[key], self.jobs[key]

    def close(self) -> None:
        self._stopped.set()
        self._ticker.join()
        self.stop()


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    one = Stranger()
    yield one
    one.close()


def command(stranger: Stranger, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "scheduler", "bench", *arguments, "--address", stranger.address]


def bench(stranger: Stranger, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(stranger, *arguments), check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


PLAN = ("-n", "60", "--seconds", "2", "--lead", "2", "--streams", "1")


def test_all_modes_run_clean_up_and_compare_with_an_earlier_run(stranger: Stranger, tmp_path: Path) -> None:
    ran = bench(stranger, "create", "storm", "every", "mixed", *PLAN, "--creates-per-s", "50", "-o", "json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = json.loads(ran.stdout)["results"]
    assert [one["mode"] for one in results] == ["create", "storm", "every", "mixed"]
    assert not any(any(one["faults"].values()) for one in results)
    assert stranger.jobs == {}, "what it created is deleted"
    deleted = [pb.DeleteJobRequest.FromString(data).name for method, data in stranger.calls if method == "DeleteJob"]
    created = [
        pb.ScheduleJobRequest.FromString(data).name for method, data in stranger.calls if method == "ScheduleJob"
    ]
    assert len(set(deleted) & set(created)) > 50, "mixed deletes what it has created"
    earlier = tmp_path / "earlier.json"
    earlier.write_text(ran.stdout)
    again = bench(stranger, "create", *PLAN, "--against", str(earlier))
    assert again.returncode == 0, again.stdout + again.stderr
    before = results[0]["figures"]["creates (per s)"]
    found = re.search(r"creates \(per s\) +([\d,.]+) +([\d.]+) x ([\d,.]+)", again.stdout)
    assert found, again.stdout
    now, ratio, then = (float(one.replace(",", "")) for one in found.groups())
    assert then == pytest.approx(before, abs=0.01) and ratio == pytest.approx(now / then, abs=0.01)
    other = bench(stranger, "create", *PLAN[2:], "-n", "61", "--against", str(earlier))
    assert "nothing to compare with" in other.stdout, "other parameters are no comparison"


def test_a_server_without_a_list_of_hosts_is_measured_alone() -> None:
    stranger = Stranger(knows_hosts=False)
    try:
        ran = bench(stranger, "storm", *PLAN)
        assert ran.returncode == 0 and "correct: early or repeated 0, missing 0" in ran.stdout, ran.stdout + ran.stderr
    finally:
        stranger.close()


def test_a_server_that_fires_twice_is_found_out() -> None:
    stranger = Stranger(copies=2)
    try:
        ran = bench(stranger, "storm", *PLAN)
        assert ran.returncode == 1 and "NOT CORRECT: early or repeated 60" in ran.stdout, ran.stdout + ran.stderr
    finally:
        stranger.close()


def test_the_faults_of_the_storm_beside_a_quiet_app_are_found_out() -> None:
    stranger = Stranger(copies=2)
    try:
        ran = bench(stranger, "fair", "-n", "60", "--streams", "1")
        assert ran.returncode == 1 and "the storm's early or repeated 60" in ran.stdout, ran.stdout + ran.stderr
        assert stranger.jobs == {}
    finally:
        stranger.close()


@pytest.mark.parametrize(("mode", "app_id"), [("every", "bench"), ("fair", "bench-storm")])
def test_what_is_interrupted_cleans_up_too(stranger: Stranger, mode: str, app_id: str) -> None:
    running = subprocess.Popen(
        command(stranger, mode, "-n", "60", "--seconds", "60", "--lead", "20"), cwd=ROOT, stderr=subprocess.PIPE
    )
    wait_until(
        lambda: sum(app == app_id for app, _ in list(stranger.jobs)) == 60, timeout_s=30, what="its jobs are there"
    )
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130 and stranger.jobs == {}, stderr.decode()
    assert b"Traceback" not in stderr
