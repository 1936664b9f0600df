"""Concurrency limits (scheduler-service.md 5.7), a test for each line concurrency/* of section 9.

That nothing more arrives is shown by sentinels: reminders of a type without limits, due later and spread over all replicas. Once all of
them have arrived, whatever was going to be sent before them has been sent.
"""

import itertools
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conftest import Cluster
from tests.support.client import Client, Hit, Watcher, actor_metadata
from tests.support.processes import EtcdServer, wait_until

pytestmark = pytest.mark.e2e
_numbers = itertools.count()
on_one = pytest.mark.parametrize("replicas", [1], indirect=True, ids=["one replica"])
on_three = pytest.mark.parametrize("replicas", [3], indirect=True, ids=["three replicas"])
on_both = pytest.mark.parametrize("replicas", [1, 3], indirect=True, ids=["one replica", "three replicas"])


@pytest.fixture(scope="module")
def replicas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory: Path = tmp_path_factory.mktemp("concurrency")
    etcd = EtcdServer(directory / "etcd").start()
    cluster = Cluster(etcd, directory).start(request.param)
    yield cluster
    cluster.close()
    etcd.close()


class Bench:
    """One test's namespace, watchers and reminders."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.namespace = f"ns{next(_numbers)}"
        self.client = Client(cluster.addresses[0])
        self.watchers: list[Watcher] = []
        self.sentinels = self.watch(app_id="sentinels", types=("sentinel",), verdict=lambda _hit: pb.SUCCESS)

    def watch(
        self, *limits: tuple[str, str | None, int], app_id: str = "app", types=("kind",), verdict=lambda _hit: None
    ) -> Watcher:
        """Streams to every replica that answer nothing by themselves."""
        watcher = Watcher(
            self.cluster.addresses,
            app_id=app_id,
            namespace=self.namespace,
            actor_types=types,
            limits=[
                pb.ConcurrencyLimit(max_concurrent=count, name=name, actor=pb.ConcurrencyLimitActor(type=kind))
                for kind, name, count in limits
            ],
            verdict=verdict,
        )
        self.watchers.append(watcher)
        wait_until(
            lambda: len(watcher.connected) == len(self.cluster.addresses), timeout_s=30, what="streams are there"
        )
        return watcher

    def schedule(self, *names: str, kind: str = "kind", key: str | None = None, due: str = "0s") -> None:
        for name in names:
            metadata = actor_metadata(kind, "id", namespace=self.namespace)
            if key is not None:
                metadata.concurrency_key = key
            self.client.schedule(name, metadata=metadata, due_time=due)

    def quiet(self) -> None:
        """All that was due by now and allowed has been sent."""
        names = [f"sentinel{next(_numbers)}" for _ in range(40)]
        self.schedule(*names, kind="sentinel")
        wait_until(lambda: set(names) <= set(self.sentinels.by_name()), timeout_s=30, what="the sentinels have arrived")

    def arrived(self, watcher: Watcher, count: int) -> list[Hit]:
        """Wait for so many triggers, and that there are no more."""
        wait_until(lambda: len(watcher.hits) >= count, timeout_s=30, what=f"{count} triggers")
        self.quiet()
        assert len(watcher.hits) == count, [hit.name for hit in watcher.hits]
        return list(watcher.hits)

    def drain(self, watcher: Watcher, count: int) -> None:
        """Answer what comes, until so many different ones have come."""
        answered: set[int] = set()

        def all_seen() -> bool:
            for hit in list(watcher.hits):
                if id(hit) not in answered:
                    answered.add(id(hit))
                    hit.answer()
            return len({hit.name for hit in watcher.hits}) >= count

        wait_until(all_seen, timeout_s=30, what=f"{count} different triggers")

    def metric(self, name: str, label: str) -> float:
        total = 0.0
        for replica in self.cluster.running:
            with urllib.request.urlopen(f"http://127.0.0.1:{replica.metrics_port}/metrics", timeout=30) as answer:
                found = re.search(
                    rf'^{name}{{concurrency_key="{re.escape(label)}"}} (\S+)', answer.read().decode(), re.MULTILINE
                )
            total += float(found.group(1)) if found else 0
        return total

    def close(self) -> None:
        for watcher in self.watchers:
            watcher.close()
        self.client.close()


@pytest.fixture
def bench(replicas: Cluster) -> Iterator[Bench]:
    one = Bench(replicas)
    yield one
    one.close()


def spread(count: int, word: str = "r") -> list[str]:
    """Names enough to reach every replica's partitions."""
    return [f"{word}{number}" for number in range(count)]


@on_three
def test_cluster(bench: Bench) -> None:
    """concurrency/cluster.go: limit 6, exactly 6 in flight over all replicas."""
    watcher = bench.watch(("kind", None, 6))
    bench.schedule(*spread(60))
    hits = bench.arrived(watcher, 6)
    hits[0].answer()
    bench.arrived(watcher, 7)
    bench.drain(watcher, 60)


@on_both
def test_disconnect(bench: Bench) -> None:
    """concurrency/disconnect.go: a disconnected stream's places are free again, and its triggers come first."""
    doomed = bench.watch(("kind", None, 6))
    bench.schedule(*spread(40))
    first = {hit.name for hit in bench.arrived(doomed, 6)}
    other = bench.watch(("kind", None, 6))
    bench.quiet()
    assert not other.hits
    doomed.close()
    assert {hit.name for hit in bench.arrived(other, 6)} == first
    bench.drain(other, 40)


@on_both
def test_failed(bench: Bench) -> None:
    """concurrency/failed.go: a FAILED answer frees the place."""
    watcher = bench.watch(("kind", None, 6))
    bench.schedule(*spread(40))
    for hit in bench.arrived(watcher, 6):
        hit.answer(pb.FAILED)
    wait_until(lambda: len(watcher.hits) >= 12, timeout_s=30, what="the next six")
    names = [hit.name for hit in watcher.hits]
    assert len(set(names[:12])) == 12, "those that wait go before retries, which are due a second later"
    bench.drain(watcher, 40)


@on_one
def test_group_and_serial(bench: Bench) -> None:
    """concurrency/group.go and serial.go: the next one only after an answer; with one place, one after another. (A limit below the number of
    replicas is one for each of them.)"""
    watcher = bench.watch(("kind", None, 2), ("serial", None, 1), types=("kind", "serial"))
    bench.schedule("a", "b", "c")
    hits = bench.arrived(watcher, 2)
    hits[1].answer()
    assert bench.arrived(watcher, 3)[2].name == "c"
    bench.schedule(*spread(5, "s"), kind="serial")
    for count in range(1, 6):
        hit = bench.arrived(watcher, 3 + count)[-1]
        assert hit.name == f"s{count - 1}"
        hit.answer()


@on_both
def test_independent(bench: Bench) -> None:
    """concurrency/independent.go: two named limits of a type do not touch each other."""
    watcher = bench.watch(("kind", "x", 3), ("kind", "y", 6))
    bench.schedule(*spread(30, "x"), key="x")
    bench.schedule(*spread(30, "y"), key="y")
    hits = bench.arrived(watcher, 9)
    assert sorted(hit.name[0] for hit in hits) == ["x"] * 3 + ["y"] * 6
    next(hit for hit in hits if hit.name[0] == "y").answer()
    assert bench.arrived(watcher, 10)[-1].name[0] == "y"
    bench.drain(watcher, 60)


@on_both
def test_multiapp(bench: Bench) -> None:
    """concurrency/multiapp.go: an app without limits neither removes another's gate nor is held back by it."""
    limited = bench.watch(("kind", None, 3))
    free = bench.watch(app_id="other", types=("free",))
    bench.schedule(*spread(30))
    bench.schedule(*spread(10, "f"), kind="free")
    bench.arrived(limited, 3)
    bench.arrived(free, 10)
    free.close()
    bench.arrived(limited, 3)
    bench.drain(limited, 30)


@on_both
def test_named(bench: Bench) -> None:
    """concurrency/named.go: a named limit holds back its key alone; the trigger carries the key."""
    watcher = bench.watch(("kind", "x", 3))
    bench.schedule(*spread(30, "x"), key="x")
    bench.schedule(*spread(8, "z"), key="z")
    bench.schedule(*spread(8, "n"))
    hits = bench.arrived(watcher, 3 + 8 + 8)
    assert {hit.message.metadata.concurrency_key for hit in hits if hit.name[0] == "x"} == {"x"}
    bench.drain(watcher, 30 + 16)


@on_both
def test_nolimit(bench: Bench) -> None:
    """concurrency/nolimit.go: without limits, or with limits that mean nothing, all are delivered."""
    watcher = bench.watch(("kind", None, 0), ("kind", "x", -1))
    bench.schedule(*spread(10), key="x")
    bench.arrived(watcher, 10)


@on_one
def test_seniority(bench: Bench) -> None:
    """concurrency/seniority.go: who was passed over keeps its place; the gauges tell what is in flight and what waits. (Order is each replica's own.)"""
    watcher = bench.watch(("kind", None, 2), ("kind", "x", 1))
    bench.schedule("x1", "x2", "x3", key="x")
    bench.schedule("p1", "p2")
    hits = bench.arrived(watcher, 2)
    assert [hit.name for hit in hits] == ["x1", "p1"]
    assert bench.metric("dapr_scheduler_concurrency_inflight", "kind") == 2
    assert bench.metric("dapr_scheduler_concurrency_inflight", "kind:x") == 1
    assert bench.metric("dapr_scheduler_concurrency_pending", "kind") == 3
    assert bench.metric("dapr_scheduler_concurrency_throttled_total", "kind:x") == 2
    assert bench.metric("dapr_scheduler_concurrency_throttled_total", "kind") == 1
    hits[1].answer()
    assert bench.arrived(watcher, 3)[-1].name == "p2"
    hits[0].answer()
    assert bench.arrived(watcher, 4)[-1].name == "x2"
    watcher.hits[2].answer()
    bench.arrived(watcher, 4)
    watcher.hits[3].answer()
    assert bench.arrived(watcher, 5)[-1].name == "x3"


@on_three
def test_the_sum_holds_while_a_replica_joins_and_leaves(bench: Bench) -> None:
    """Shares move with the members; what is in flight at once over all never exceeds the limit."""
    most = 0
    watcher = bench.watch(("kind", None, 6), verdict=lambda _hit: None)
    bench.schedule(*spread(300))
    answered = 0

    def work(until: int) -> None:
        """Answer one at a time, counting those that have come and are not answered."""
        nonlocal answered, most

        def step() -> bool:
            nonlocal answered, most
            most = max(most, len(watcher.hits) - answered)
            if answered < len(watcher.hits):
                watcher.hits[answered].answer()
                answered += 1
            return answered >= until

        wait_until(step, timeout_s=30, what=f"{until} answers")

    work(60)
    bench.cluster.start(1)
    watcher.add(bench.cluster.addresses[-1])
    work(150)
    bench.cluster.replicas[-1].terminate()
    wait_until(lambda: bench.cluster.replicas[-1].process.poll() is not None, timeout_s=30, what="the replica has left")
    wait_until(
        lambda: work(len(watcher.hits)) or len({hit.name for hit in watcher.hits}) == 300, timeout_s=40, what="all 300"
    )
    # What the leaving replica had in flight when it gave its partitions up is sent again by their new owners.
    assert 6 <= most <= 6 + 2, most
