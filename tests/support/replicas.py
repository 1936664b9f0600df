"""One replica that a whole test session shares; import the fixture where it is wanted. Tests keep apart by their app ids."""

import itertools
from collections.abc import Iterator

import pytest

from tests.conftest import Cluster
from tests.support.processes import EtcdServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("shared")
    etcd = EtcdServer(directory / "etcd").start()
    cluster = Cluster(etcd, directory).start(1)
    yield cluster
    cluster.close()
    etcd.close()


@pytest.fixture
def app_id() -> str:
    """An app of the test's own."""
    return f"app{next(_numbers)}"
