"""The processes of a fault run: three etcd members and three replicas, on loopback or each replica on a host of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import grpc

from scheduler._pb.etcd_api.v1 import etcd_pb2
from tests.faults.etcdwatch import EtcdWatch, count_leases
from tests.faults.machine import etcd_binary
from tests.faults.network import Network
from tests.support.processes import Child, free_port, wait_until

PARTITIONS = 128
# Little for a process that must die now and then under load: etcd's own defaults are 100 ms and 1 s.
_ETCD_FLAGS = ("--log-level=error", "--snapshot-count=10000")


class EtcdMember(Child):
    """One member."""

    def __init__(self, name: str, directory: Path, host: str, *arguments: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / f"{name}.log")
        self.name, self.directory, self.host, self.arguments = name, directory, host, arguments
        self.port, self.peer_port = free_port(), free_port()
        self.initial_cluster = ""

    @property
    def target(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def peer(self) -> str:
        return f"{self.name}=http://127.0.0.1:{self.peer_port}"

    def start(self) -> None:
        client, peer = f"http://{self.target}", f"http://127.0.0.1:{self.peer_port}"
        self.spawn(
            [
                str(etcd_binary()),
                f"--name={self.name}",
                f"--data-dir={self.directory / self.name}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster={self.initial_cluster}",
                *_ETCD_FLAGS,
                *self.arguments,
            ]
        )

    def status(self, timeout_s: float = 1.0) -> etcd_pb2.StatusResponse | None:
        """Its own word on itself; None: it does not answer."""
        with grpc.insecure_channel(self.target) as channel:
            ask = channel.unary_unary(
                "/etcdserverpb.Maintenance/Status", response_deserializer=etcd_pb2.StatusResponse.FromString
            )
            try:
                answer: etcd_pb2.StatusResponse = ask(b"", timeout=timeout_s)
            except grpc.RpcError:
                return None
            return answer


class FaultReplica(Child):
    """One `scheduler serve`, started by the product's own command or by a launcher of a scenario."""

    def __init__(self, name: str, directory: Path, endpoints: list[str], network: Network | None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / f"{name}.log")
        self.name, self.directory, self.endpoints, self.network = name, directory, endpoints, network
        self.host = network.add(name) if network else "127.0.0.1"
        self.port, self.health_port, self.metrics_port = free_port(), free_port(), free_port()
        self.arguments: list[str] = []
        self.environment: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def start(self, module: str = "scheduler", **environment: str) -> "FaultReplica":
        inside = self.network.inside(self.name) if self.network else []
        command = [*inside, sys.executable, "-m", module, "serve", f"--id={self.name}", f"--port={self.port}"]
        command += [f"--healthz-port={self.health_port}", f"--metrics-port={self.metrics_port}", "--etcd-embed=false"]
        command += [f"--etcd-client-endpoints={','.join(self.endpoints)}", f"--etcd-data-dir={self.directory}"]
        if self.network:
            command += [f"--{what}-address={self.host}" for what in ("listen", "healthz-listen", "metrics-listen")]
            command += ["--allow-insecure", "--admin-identities=*", f"--override-broadcast-host-port={self.address}"]
        shared = {key: value.format(directory=self.directory) for key, value in self.environment.items()}
        if clock := shared.get("FAKETIME_TIMESTAMP_FILE"):
            Path(clock).write_text("+0\n")
        self.spawn([*command, *self.arguments], {**shared, **environment})
        return self

    def signal(self, number: signal.Signals) -> None:
        """To the replica's process itself (`ip netns exec` becomes what it runs)."""
        os.kill(self.pid, number)

    def answer(self, path: str) -> tuple[int, str]:
        """Status and text of a health endpoint; (0, reason) while nothing answers."""
        try:
            with urlopen(f"http://{self.host}:{self.health_port}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except URLError as error:
            code = getattr(error, "code", 0)
            return code, error.read().decode() if code else str(error)  # type: ignore[attr-defined]
        except OSError as error:
            return 0, str(error)

    def metric(self, name: str) -> float:
        with urlopen(f"http://{self.host}:{self.metrics_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(name + " ")).rpartition(" ")[2])

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class FaultCluster:
    """Made by `open`, ended by `close`."""

    def __init__(
        self,
        directory: Path,
        *,
        namespaces: bool = False,
        members: int = 3,
        etcd_flags: tuple[str, ...] = (),
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.network = Network() if namespaces else None
        self.members: list[EtcdMember] = []
        self.replicas: list[FaultReplica] = []
        self.watch: EtcdWatch | None = None
        self._count, self._flags, self._arguments = members, etcd_flags, arguments

    def open(self, replicas: int = 3, environment: dict[str, str] | None = None) -> "FaultCluster":
        if self.network:
            self.network.open()
        host = self.network.gateway if self.network else "127.0.0.1"
        self.members = [
            EtcdMember(f"etcd-{n}", self.directory / "etcd", host, *self._flags) for n in range(self._count)
        ]
        for member in self.members:
            member.initial_cluster = ",".join(one.peer for one in self.members)
            member.start()
        wait_until(lambda: self.leader() is not None, timeout_s=30, what="etcd has a leader")
        self.watch = EtcdWatch([member.target for member in self.members])
        endpoints = [f"http://{member.target}" for member in self.members]
        for number in range(replicas):
            name = f"replica-{number}"
            replica = FaultReplica(name, self.directory / name, endpoints, self.network)
            replica.environment = environment or {}
            replica.arguments = list(self._arguments)
            self.replicas.append(replica.start())
        self.settle()
        return self

    def leader(self) -> EtcdMember | None:
        """The member that leads, by its own word."""
        for member in self.members:
            status = member.status() if member.process is not None and member.process.poll() is None else None
            if status is not None and status.leader and status.leader == status.header.member_id:
                return member
        return None

    def owners(self) -> dict[int, str]:
        """Partition to replica, from the watcher's log."""
        assert self.watch is not None
        return dict(self.watch.owners)

    def settled(self) -> bool:
        owners = list(self.owners().values())
        running = [replica for replica in self.replicas if replica.alive]
        loads = [owners.count(replica.name) for replica in running]
        return len(owners) == sum(loads) == PARTITIONS and min(loads) >= PARTITIONS // len(running) - len(running)

    def settle(self, timeout_s: float = 30.0) -> None:
        """Wait until every running replica says that it is ready, every partition has one owner, and each replica its share."""
        for replica in self.replicas:
            if replica.alive:
                wait_until(
                    lambda one=replica: one.answer("/healthz")[0] == 200,
                    timeout_s=timeout_s,
                    what=f"{replica.name} is ready",
                )
        wait_until(self.settled, timeout_s=timeout_s, what=f"partitions are shared out: {self.loads()}")

    def loads(self) -> dict[str, int]:
        owners = list(self.owners().values())
        return {name: owners.count(name) for name in sorted(set(owners))}

    def leases(self) -> int:
        return count_leases(self.members[0].target)

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()
        for child in [*self.replicas, *self.members]:
            if child.process is not None and child.process.poll() is None:
                with_continue = child.process
                with_continue.send_signal(signal.SIGCONT)
            child.close()
        if self.network:
            self.network.close()


def attach_strace(pid: int, *arguments: str) -> subprocess.Popen[bytes]:
    """strace on all threads of a process; ending it undoes its injections."""
    return subprocess.Popen(
        ["strace", "-f", "-q", "-o", "/dev/null", *arguments, "-p", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
