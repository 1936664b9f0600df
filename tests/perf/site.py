"""The servers that are measured: an etcd and its replicas as real processes, and what can be read off them."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

from tests.conftest import Cluster
from tests.perf.clients import TOOLS, Target
from tests.support.client import EtcdReader
from tests.support.processes import EtcdServer, Replica, free_ports, wait_until


def stop_when_told() -> None:
    """SIGTERM ends us as Ctrl-C does: with the processes that we have started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def samples(port: int) -> dict[str, float]:
    """What a metrics endpoint says: each sample by its whole name."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] not in {"#", ""})}


def resident_bytes(pid: int) -> int:
    """What the process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def most_resident_bytes(pid: int) -> int:
    """The most that it has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def cpu_s(pid: int) -> float:
    """What the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def factor() -> float | None:
    """How fast this machine is just now (1.0: the one on which the reference was measured); None: there is no tool to tell."""
    tool = TOOLS / "calibrate.py"
    if not tool.exists():
        return None
    told = subprocess.run([sys.executable, str(tool)], check=True, capture_output=True, text=True).stdout
    return float(told.split()[1])


class Site:
    """Made by `running`."""

    def __init__(self, etcd: EtcdServer, replicas: list[Replica]) -> None:
        """All of them run."""
        self.etcd = etcd
        self.replicas = replicas

    @property
    def target(self) -> Target:
        """What a client needs to know."""
        return Target(
            tuple(one.address for one in self.replicas),
            tuple(pid for child in (self.etcd, *self.replicas) for pid in family(child.pid)),
        )

    def transactions(self) -> float:
        """How many requests that write etcd has had."""
        found = samples(self.etcd.port)
        return sum(
            value
            for name, value in found.items()
            if name.startswith("grpc_server_started_total")
            and 'grpc_service="etcdserverpb.KV"' in name
            and 'grpc_method="Range"' not in name
        )

    def triggers(self) -> float:
        """How many triggers the replicas have sent."""
        return sum(samples(one.metrics_port)["scheduler_triggers_sent_total"] for one in self.replicas)

    def wait_for_jobs(self, count: int) -> None:
        """Until the replicas hold so many."""
        wait_until(
            lambda: sum(samples(one.metrics_port)["scheduler_jobs"] for one in self.replicas) >= count,
            timeout_s=300,
            what=f"{count} jobs are there",
        )

    @contextmanager
    def counting_transactions(self, seconds: float, figures: dict[str, float]) -> Iterator[None]:
        """While a client runs: etcd's transactions per trigger, from a second after the first trigger on, for so long."""

        def count() -> None:
            before = self.triggers()
            wait_until(lambda: self.triggers() > before + 100, timeout_s=120, what="triggers are sent")
            time.sleep(1)
            triggers, transactions = self.triggers(), self.transactions()
            time.sleep(seconds)
            figures["etcd transactions per trigger"] = (self.transactions() - transactions) / (
                self.triggers() - triggers
            )

        counter = Thread(target=count)
        counter.start()
        yield
        counter.join()


@contextmanager
def on_one_host(processes: int) -> Iterator[Site]:
    """One `scheduler serve --processes`, every partition with its owner."""
    with tempfile.TemporaryDirectory() as name:
        etcd = EtcdServer(Path(name) / "etcd").start()
        host = Replica("host", Path(name), etcd.endpoint, f"--processes={processes}")
        host.port = free_ports(processes)
        reader = EtcdReader(etcd.port)
        try:
            host.start().wait_healthy(60)
            wait_until(lambda: len(set(reader.owners().values())) == processes, timeout_s=30, what="each has its share")
            yield Site(etcd, [host])
        finally:
            reader.close()
            if host.process is not None and host.process.poll() is None:
                host.terminate(30)
            etcd.close()


@contextmanager
def running(replicas: int) -> Iterator[Site]:
    """Fresh processes, every partition with its owner."""
    with tempfile.TemporaryDirectory() as name:
        etcd = EtcdServer(Path(name) / "etcd").start()
        cluster = Cluster(etcd, Path(name))
        try:
            cluster.start(replicas)
            yield Site(etcd, cluster.replicas)
        finally:
            cluster.close()
            etcd.close()
