"""Real processes for tests: etcd servers, replicas and sidecars on free loopback ports, ended by whoever started them."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scheduler.etcd.binary import find_etcd

ROOT = Path(__file__).resolve().parents[2]


# Below the ports that kernels give to outgoing connections and to listeners without a wish.
_PORTS = range(20_000, 30_000)


def free_port() -> int:
    """A free loopback port that no other caller, in whatever process, has been given lately."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports: see `free_port`."""
    with (Path(tempfile.gettempdir()) / f"scheduler-tests-ports-{os.getuid()}").open("a+") as last:
        fcntl.flock(last, fcntl.LOCK_EX)
        last.seek(0)
        first = int(last.read() or _PORTS.start)
        while not _free(range(first, first + count)):
            first = first + 1 if first + 1 + count < _PORTS.stop else _PORTS.start
        last.truncate(0)
        last.write(str(first + count if first + 2 * count < _PORTS.stop else _PORTS.start))
        return first


def _free(ports: range) -> bool:
    try:
        for port in ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Child:
    """A process with its log in a file."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: list[str], env: dict[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            environment = {**os.environ, **(env or {})}
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=environment
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = 15.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not stop within {timeout_s} s; its log ends:\n{self.tail()}") from None

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def tail(self, size: int = 3_000) -> str:
        return self.log.read_text(errors="replace")[-size:]


class EtcdServer(Child):
    """A single-member etcd that can be killed and started again on its data."""

    def __init__(self, directory: Path, *arguments: str, scheme: str = "http") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / "etcd.log")
        self.scheme = scheme
        self.directory = directory
        self.arguments = arguments
        self.port, self.peer_port = free_port(), free_port()

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> "EtcdServer":
        peer = f"http://127.0.0.1:{self.peer_port}"
        self.spawn(
            [
                str(find_etcd().path),
                "--name=test",
                f"--data-dir={self.directory / 'data'}",
                f"--listen-client-urls={self.endpoint}",
                f"--advertise-client-urls={self.endpoint}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=test={peer}",
                "--log-level=error",
                *self.arguments,
            ]
        )
        wait_until(lambda: answers(self.port), timeout_s=30, what="etcd answers")
        return self


class Replica(Child):
    """One `scheduler serve`."""

    def __init__(
        self, name: str, directory: Path, endpoint: str, *arguments: str, env: dict[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / f"{name}.log")
        self.name = name
        self.env = env
        self.directory = directory
        self.endpoint = endpoint
        self.arguments = arguments
        self.port, self.health_port, self.metrics_port = free_port(), free_port(), free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "Replica":
        self.spawn(
            [
                sys.executable,
                "-m",
                "scheduler",
                "serve",
                f"--id={self.name}",
                f"--port={self.port}",
                f"--healthz-port={self.health_port}",
                f"--metrics-port={self.metrics_port}",
                "--etcd-embed=false",
                f"--etcd-client-endpoints={self.endpoint}",
                f"--etcd-data-dir={self.directory}",
                *self.arguments,
            ],
            self.env,
        )
        return self

    def healthy(self) -> bool:
        from urllib.error import URLError
        from urllib.request import urlopen

        try:
            with urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=30) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False

    def wait_healthy(self, timeout_s: float = 60.0) -> "Replica":
        try:
            wait_until(self.healthy, timeout_s=timeout_s, what=f"{self.name} is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}; its log ends:\n{self.tail()}") from None
        return self


class Sidecar(Child):
    """One `scheduler sidecar`."""

    def __init__(
        self, directory: Path, schedulers: list[str], *arguments: str, env: dict[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / "sidecar.log")
        self.http_port, self.grpc_port = free_port(), free_port()
        self.schedulers = schedulers
        self.arguments = arguments
        self.env = env

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self) -> "Sidecar":
        command = [sys.executable, "-m", "scheduler", "sidecar"]
        command += [f"--dapr-http-port={self.http_port}", f"--dapr-grpc-port={self.grpc_port}"]
        command += [f"--scheduler-host-address={','.join(self.schedulers)}", *self.arguments]
        self.spawn(command, self.env)
        assert self.process is not None
        running = self.process
        wait_until(
            lambda: (answers(self.http_port) and answers(self.grpc_port)) or running.poll() is not None,
            timeout_s=30,
            what="the sidecar's ports are open",
        )
        assert running.poll() is None, f"the sidecar ended; its log ends:\n{self.tail()}"
        return self
