"""Two deployments that the conformance tests run against: one replica, and three of which one joins and another leaves during each test.

The churning one keeps its first replica, which unary calls go to; streams follow WatchHosts, as a sidecar's do.
"""

import itertools
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conftest import Cluster
from tests.support.client import Client, Hit, Watcher, actor_metadata, job_metadata
from tests.support.processes import EtcdServer, Replica, wait_until

_numbers = itertools.count()


class Deployment:
    """Running replicas, as one test sees them: with a namespace of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.namespace = f"ns{next(_numbers)}"
        self.home = cluster.replicas[0]
        self.client = Client(self.home.address)
        self._watchers: list[Watcher] = []
        self._sentinels: Watcher | None = None

    def job(self, app_id: str = "app", namespace: str | None = None) -> pb.JobMetadata:
        return job_metadata(app_id, namespace or self.namespace)

    def actor(self, kind: str, actor_id: str, namespace: str | None = None) -> pb.JobMetadata:
        return actor_metadata(kind, actor_id, namespace=namespace or self.namespace)

    def schedule(self, *names: str, metadata: pb.JobMetadata | None = None, **job) -> None:
        for name in names:
            self.client.schedule(name, metadata=metadata or self.job(), **job)

    def watch(
        self, app_id: str = "app", actor_types=(), verdict: Callable[[Hit], int | None] = lambda _hit: pb.SUCCESS
    ) -> Watcher:
        """Streams to every replica that there is or will be."""
        watcher = Watcher([], app_id=app_id, namespace=self.namespace, actor_types=actor_types, verdict=verdict)
        watcher.follow(self.home.address)
        self._watchers.append(watcher)
        wait_until(
            lambda: self.home.address in watcher.connected and len(watcher.connected) == len(watcher.wanted),
            timeout_s=30,
            what="streams",
        )
        return watcher

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value, summed over the replicas."""
        shown = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        line = re.compile(rf"^{name}{re.escape('{' + shown + '}') if shown else ''} (\S+)$", re.MULTILINE)
        total = 0.0
        for replica in self.cluster.running:
            with urllib.request.urlopen(f"http://127.0.0.1:{replica.metrics_port}/metrics", timeout=30) as answer:
                found = line.search(answer.read().decode())
            total += float(found.group(1)) if found else 0.0
        return total

    def wait(self, condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        wait_until(lambda: bool(condition()), timeout_s=timeout_s, what=what)

    def sentinels(self, count: int = 40) -> None:
        """Whatever was due before now has been sent: proven by jobs due now, spread over all partitions' owners, that have all arrived."""
        watcher = self._sentinels = self._sentinels or self.watch(app_id="sentinel")
        names = {f"sentinel{next(_numbers)}" for _ in range(count)}
        self.schedule(*names, metadata=self.job("sentinel"), due_time="0s")
        self.wait(lambda: names <= {hit.name for hit in watcher.hits}, "the sentinels")

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()
        self.client.close()


@pytest.fixture(scope="session")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("lone")
    etcd = EtcdServer(directory / "etcd", "--max-request-bytes=8388608").start()
    cluster = Cluster(etcd, directory).start(1, "--etcd-max-request-bytes=8388608")
    yield cluster
    cluster.close()
    etcd.close()


@pytest.fixture(scope="session")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("rolling")
    etcd = EtcdServer(directory / "etcd", "--max-request-bytes=8388608").start()
    cluster = Cluster(etcd, directory).start(3, "--etcd-max-request-bytes=8388608")
    yield cluster
    cluster.close()
    etcd.close()


class Churn:
    """One replica joins and, once it serves, the oldest but the first leaves."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._thread = threading.Thread(target=self._run)
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            cluster = self._cluster
            name = f"replica-{len(cluster.replicas)}"
            joining = Replica(
                name, cluster.directory / name, cluster.etcd.endpoint, "--etcd-max-request-bytes=8388608"
            ).start()
            joining.wait_healthy(timeout_s=30)
            cluster.replicas.append(joining)
            leaving = cluster.running[1]
            assert leaving.terminate(timeout_s=30) == 0
        except BaseException as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=90)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


@pytest.fixture(params=["one replica", "churn"])
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Each test that takes this runs twice."""
    if request.param == "one replica":
        one = Deployment(request.getfixturevalue("lone"))
        yield one
        one.close()
        return
    one = Deployment(request.getfixturevalue("rolling"))
    with Churn(one.cluster):
        yield one
    one.close()


@pytest.fixture
def still(lone: Cluster) -> Iterator[Deployment]:
    """One replica and no churn, for tests whose meaning does not survive it."""
    one = Deployment(lone)
    yield one
    one.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Deployments of a test's own, for those that kill replicas."""
    made: list[tuple[EtcdServer, Cluster, Deployment]] = []

    def make(count: int, *arguments: str) -> Deployment:
        etcd = EtcdServer(tmp_path / f"etcd{len(made)}").start()
        cluster = Cluster(etcd, tmp_path / f"cluster{len(made)}").start(count, *arguments, settle_hosts=not arguments)
        one = Deployment(cluster)
        made.append((etcd, cluster, one))
        return one

    yield make
    for etcd, cluster, one in made:
        one.close()
        cluster.close()
        etcd.close()
