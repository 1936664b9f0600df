"""One run: a cluster under load, scenarios that disturb it one after the other, the history, and the verdict."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from scheduler._pb.etcd_api.v1 import etcd_pb2
from tests.checker.history import read, write
from tests.checker.judge import Bounds, Report, judge
from tests.faults.cluster import FaultCluster
from tests.faults.machine import etcd_version
from tests.faults.workload import APPS, Clients
from tests.support.processes import ROOT, Child, wait_until

TTL_S = 5.0
# The others' claims may be taken when the lease has run out: by then a crash is at most TTL + 1 s old.
TAKE_OVER_S = TTL_S + 1.0


class WatcherProcess(Child):
    """One watching client."""

    def __init__(self, directory: Path, number: int, app: tuple[str, str], addresses: list[str], answer: str) -> None:
        super().__init__(directory / f"watcher-{number}.log")
        self.history = directory / f"history-watcher-{number}.jsonl"
        self.config = {
            "src": f"watcher-{number}",
            "ns": app[0],
            "app": app[1],
            "addresses": addresses,
            "answer": answer,
            "history": str(self.history),
        }

    def start(self) -> "WatcherProcess":
        self.spawn([sys.executable, "-m", "tests.faults.watcher", json.dumps(self.config)])
        return self

    def open_streams(self) -> set[str]:
        """Streams that stood when the process last wrote."""
        standing: set[str] = set()
        for record in read([self.history]) if self.history.exists() else ():
            if record["type"] == "stream_open":
                standing.add(record["stream"])
            elif record["type"] == "stream_lost":
                standing.discard(record["stream"])
        return standing


@dataclass(frozen=True, slots=True)
class Phase:
    """A scenario's part of the run."""

    name: str
    begin_wall: int
    end_wall: int
    # At most (changes_min: at least) so much of each figure; see Report.figures.
    limits: dict[str, float]
    notes: dict[str, Any]

    def broken(self, figures: dict[str, Any]) -> list[str]:
        """What the figures exceed."""
        values = {**figures, **{f"L_of_{ns}": late for ns, late in figures["L_of"].items()}}
        found = [
            f"{self.name}: {what} is {values[what]}, allowed is {limit}"
            for what, limit in self.limits.items()
            if what in values and values[what] > limit
        ]
        if figures["ownership_changes"] < self.limits.get("changes_min", 0):
            found.append(f"{self.name}: {figures['ownership_changes']} ownership changes: the fault missed")
        return found


class Run:
    """Made by `running`. Scenarios use `cluster`, `clients`, `fault` and `note`."""

    def __init__(self, directory: Path, cluster: FaultCluster, seed: int) -> None:
        self.directory, self.cluster, self.seed = directory, cluster, seed
        self.clients = Clients(self._addresses, seed)
        self.watchers: list[WatcherProcess] = []
        self.phases: list[Phase] = []
        self.bounds = Bounds(targets_min=200)
        self.began = time.monotonic()
        # Until then lateness is excused: the run must go on beyond, or nothing is shown.
        self.excused_until = 0.0

    def _addresses(self) -> list[str]:
        return [replica.address for replica in self.cluster.replicas]

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:7.2f} s] {text}", flush=True)

    def watch(self, app: tuple[str, str], answer: str = "success") -> WatcherProcess:
        """One more watching client."""
        watcher = WatcherProcess(self.directory, len(self.watchers), app, self._addresses(), answer)
        self.watchers.append(watcher.start())
        return watcher

    def wait_streams(self) -> None:
        expected = sum(replica.alive for replica in self.cluster.replicas)
        for watcher in self.watchers:
            if watcher.process is not None and watcher.process.poll() is None:
                wait_until(lambda one=watcher: len(one.open_streams()) >= expected, timeout_s=15, what="streams stand")

    def begin(self, seconds: int) -> None:
        """Three watching clients in two namespaces, the standing jobs, and the callers."""
        for app in (APPS[0], APPS[0], APPS[1]):
            self.watch(app)
        self.wait_streams()
        self.clients.begin(seconds)
        self.clients.churn()
        self.say(f"under load: {self.cluster.loads()}")

    @contextmanager
    def fault(self, name: str, target: str, bound_s: float) -> Iterator[None]:
        """A disturbance while the block runs; lateness is excused until `bound_s` after it."""
        self.clients.note(type="start", fault=name, target=target, bound_s=bound_s)
        self.say(f"{name} {target}: begins")
        try:
            yield
        finally:
            self.clients.note(type="stop", fault=name, target=target)
            self.excused_until = max(self.excused_until, time.monotonic() + bound_s)
            self.say(f"{name} {target}: ends")

    @contextmanager
    def phase(self, name: str, **limits: float) -> Iterator[dict[str, Any]]:
        """A scenario's part: healthy before, healthy and settled afterwards; its figures must keep to the limits."""
        self.cluster.settle()
        notes: dict[str, Any] = {}
        begin = time.time_ns()
        yield notes
        self.cluster.settle()
        self.tail(1.5)  # what was missed is caught up within the phase
        self.phases.append(Phase(name, begin, time.time_ns(), limits, notes))
        self.say(f"{name}: healed {notes or ''}")

    def tail(self, seconds: float) -> None:
        """Let the healed cluster run on."""
        time.sleep(seconds)  # passing time under load is what this is for

    def keys(self) -> int:
        """How many keys of ours etcd holds."""
        return int(self._range("/scheduler/", count_only=True).count)

    def claims(self) -> dict[bytes, int]:
        """Each claim and its epoch, as etcd has them."""
        return {kv.key: kv.create_revision for kv in self._range("/scheduler/claims/").kvs}

    def _range(self, prefix: str, *, count_only: bool = False) -> etcd_pb2.RangeResponse:
        """Asked of a member that answers."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        request = etcd_pb2.RangeRequest(key=prefix.encode(), range_end=end.encode(), count_only=count_only)
        for member in self.cluster.members:
            if member.status() is None:
                continue
            with grpc.insecure_channel(member.target) as channel:
                ask = channel.unary_unary(
                    "/etcdserverpb.KV/Range", response_deserializer=etcd_pb2.RangeResponse.FromString
                )
                return ask(request.SerializeToString(), timeout=10)
        raise AssertionError("no member of etcd answers")

    def finish(self, tail_s: float = 4.0) -> Report:
        """The healed tail, the last records, the verdict."""
        self.tail(max(tail_s, self.excused_until + 3.0 - time.monotonic()))
        self.clients.stop()
        self.cluster.settle()
        members = sum(replica.alive for replica in self.cluster.replicas)
        with suppress(AssertionError):  # the verdict says how many were left
            wait_until(lambda: self.cluster.leases() <= members, timeout_s=8, what="old leases are gone")
        time.sleep(1.2)  # what is due by now must come, be answered and be committed before the end is noted
        self.clients.note(type="final", leases=self.cluster.leases())
        for watcher in self.watchers:
            watcher.close()
        assert self.cluster.watch is not None
        write(self.directory / "history.jsonl", self.clients.records)
        write(self.directory / "etcd.jsonl", list(self.cluster.watch.records))
        (self.directory / "bounds.json").write_text(json.dumps(asdict(self.bounds)))
        return judge(list(read(sorted(self.directory.glob("*.jsonl")))), self.bounds)


@contextmanager
def running(directory: Path, *, seed: int, seconds: int = 60, load: bool = True, **cluster: Any) -> Iterator[Run]:
    """A cluster under load; whatever happens, its processes and networks are gone afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    environment, replicas = cluster.pop("environment", None), cluster.pop("replicas", 3)
    made = FaultCluster(directory, **cluster)
    run = Run(directory, made, seed)
    print(f"seed {seed}, etcd {etcd_version()}, files in {directory}", flush=True)
    try:
        made.open(replicas, environment=environment)
        if load:
            run.begin(seconds)
        yield run
    finally:
        run.clients.close()
        for watcher in run.watchers:
            watcher.close()
        made.close()


def revision() -> str:
    """The commit that ran."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
