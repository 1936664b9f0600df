"""Fixtures that start real processes and stop them."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.client import Client, EtcdReader, hosts_of
from tests.support.processes import EtcdServer, Replica, wait_until

# A busy machine is no failure of what a property is about.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# A shell that starts the tests in the background has these ignored, which all processes that they start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd").start()
    yield server
    server.close()


class Cluster:
    """Replicas on one etcd."""

    def __init__(self, etcd: EtcdServer, directory: Path) -> None:
        self.etcd = etcd
        self.directory = directory
        self.replicas: list[Replica] = []
        self.reader = EtcdReader(etcd.port)

    def start(self, count: int, *arguments: str, settle_hosts: bool = True) -> "Cluster":
        new = []
        for _ in range(count):
            name = f"replica-{len(self.replicas)}"
            replica = Replica(name, self.directory / name, self.etcd.endpoint, *arguments)
            self.replicas.append(replica)
            new.append(replica)
        for replica in new:
            replica.start()
        for replica in new:
            replica.wait_healthy()
        self.settle(hosts=settle_hosts)
        return self

    @property
    def running(self) -> list[Replica]:
        return [one for one in self.replicas if one.process is not None and one.process.poll() is None]

    @property
    def addresses(self) -> list[str]:
        return [replica.address for replica in self.running]

    def settle(self, timeout_s: float = 60.0, *, hosts: bool = True) -> None:
        """Wait until every running replica owns its share and (in plaintext) every one lists all."""
        names = {replica.name for replica in self.running}
        share = 128 // len(names)

        def settled() -> bool:
            owners = self.reader.owners()
            loads = [list(owners.values()).count(name) for name in names]
            return len(owners) == 128 and set(owners.values()) == names and min(loads) >= share - len(names)

        wait_until(settled, timeout_s=timeout_s, what="every partition has an owner and every replica its share")
        for address in self.addresses if hosts else ():
            wait_until(
                lambda address=address: sorted(hosts_of(address)) == sorted(self.addresses),
                timeout_s=60,
                what="hosts agree",
            )

    def close(self) -> None:
        self.reader.close()
        for replica in self.replicas:
            replica.close()


@pytest.fixture
def cluster(etcd: EtcdServer, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(count: int, *arguments: str, settle_hosts: bool = True) -> Cluster:
        one = Cluster(etcd, tmp_path)
        made.append(one)
        return one.start(count, *arguments, settle_hosts=settle_hosts)

    yield make
    for one in made:
        one.close()


@pytest.fixture
def client(cluster: Callable[..., Cluster]) -> Iterator[Client]:
    one = Client(cluster(1).addresses[0])
    yield one
    one.close()
