"""grpcio (threads and asyncio), grpclib, grpc-go and grpc-js as clients of a replica, in plaintext and with mutual TLS.

Each schedules, watches and acknowledges in its own process, while the replica is stopped and started again, and once killed.
"""

import base64
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.interop.scheduler_client import SchedulerClient
from tests.support.certificates import Authority
from tests.support.processes import ROOT, EtcdServer, Replica, wait_until
from tests.support.toolchains import go_build, npm_install, python_environment

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.e2e]
HERE = Path(__file__).parent


def _python(name: str, interpreter: str | Path = sys.executable) -> list[str]:
    return [str(interpreter), str(HERE / "python" / f"{name}.py")]


def _grpclib() -> list[str]:
    return _python("grpclib_client", python_environment("grpclib", HERE / "python" / "requirements-grpclib.txt"))


def _grpc_js() -> list[str]:
    return ["node", str(npm_install(HERE / "js", "interop-js") / "client.js"), str(ROOT / "protos")]


CLIENTS = {
    "grpcio": lambda: _python("grpcio_sync"),
    "grpcio-aio": lambda: _python("grpcio_aio"),
    "grpclib": _grpclib,
    "grpc-go": lambda: [str(go_build(HERE / "go", "scheduler-client"))],
    "grpc-js": _grpc_js,
}


class Scene:
    """A replica that clients are connected to; with certificates or without."""

    def __init__(self, directory: Path, *, secure: bool) -> None:
        self.directory = directory
        self.authority = Authority(directory / "ca") if secure else None
        flags = []
        if self.authority:
            certificate, key = self.authority.leaf("own", ["spiffe://localhost/ns/dapr-system/dapr-scheduler"])
            flags = [
                f"--tls-cert-file={certificate}",
                f"--tls-key-file={key}",
                f"--tls-ca-file={self.authority.ca_file}",
            ]
        self.etcd = EtcdServer(directory / "etcd").start()
        self.replica = Replica("replica-0", directory / "replica", self.etcd.endpoint, *flags).start().wait_healthy()

    def client(self, name: str, command: list[str]) -> SchedulerClient:
        arguments = [f"localhost:{self.replica.port}", name]
        if self.authority:
            certificate, key = self.authority.leaf(name, [f"spiffe://public/ns/default/{name}"])
            arguments += [str(path) for path in (self.authority.ca_file, certificate, key)]
        return SchedulerClient([*command, *arguments], self.directory / f"{name}.log")

    def close(self) -> None:
        self.replica.close()
        self.etcd.close()


@pytest.fixture(scope="module", params=["plaintext", "mutual TLS"])
def clients(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, SchedulerClient]]:
    """All of them at once, after the replica was stopped, started, killed and started under them."""
    commands = {name: command() for name, command in CLIENTS.items()}
    scene = Scene(tmp_path_factory.mktemp("scene"), secure=request.param == "mutual TLS")
    made: dict[str, SchedulerClient] = {}

    def each_has_triggers(more_than: dict[str, int]) -> bool:
        return all(len(made[name].heard("trigger")) >= count + 3 for name, count in more_than.items())

    def settle(what: str) -> None:
        """Three more triggers for each; a client that gets none fails its own test."""
        counts = {name: len(one.heard("trigger")) for name, one in made.items()}
        try:
            wait_until(lambda: each_has_triggers(counts), timeout_s=30, what=what)
        except AssertionError:
            for one in made.values():
                one.said.append({"missed": what})

    try:
        for name, command in commands.items():
            made[name] = scene.client(name, command)
        settle("triggers at first")
        assert scene.replica.terminate() == 0
        scene.replica.start().wait_healthy()
        settle("triggers after a stop and a start")
        scene.replica.kill()
        scene.replica.start().wait_healthy()
        settle("triggers after a kill and a start")
        yield made
    finally:
        for one in made.values():
            one.close()
        scene.close()


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_schedules_watches_acknowledges_and_reconnects(clients: dict[str, SchedulerClient], name: str) -> None:
    client = clients[name]
    code = client.finish()
    assert code == 0, client.log
    assert client.heard("deleted") == [True], client.log
    assert client.heard("hosts") == [1]
    assert client.heard("again") == ["AlreadyExists"]
    assert (client.heard("got"), client.heard("listed")) == (["@every 250ms"], [["tick"]])
    assert len(client.heard("watching")) >= 3, client.log
    assert set(client.heard("broken")) <= {"Unavailable", "Cancelled"}, client.log
    # Occurrences come in order, none is left out (each waits for the answer to the one before), and only the crash may repeat one.
    indices = client.heard("index")
    assert len(indices) >= 9, client.log
    assert indices[0] == min(indices)
    steps = [after - before for before, after in pairwise(indices)]
    assert set(steps) <= {0, 1}, indices
    assert steps.count(0) <= 1, indices
    assert {base64.b64decode(data) for data in client.heard("data")} == {bytes([0, 1, 254, 255])}
