"""The image: built from deploy/Dockerfile, run with nothing that Pod Security "restricted" does not grant, on an etcd outside."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Client, EtcdReader, Watcher
from tests.support.containers import RESTRICTED, Container, container_image, container_tools, podman
from tests.support.processes import EtcdServer, Replica, free_port, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MIB = 1 << 20


@pytest.fixture(scope="module")
def image() -> str:
    return container_image()


class Served:
    """One replica in a container."""

    def __init__(self, image: str, etcd: EtcdServer) -> None:
        self.port, self.health_port, self.metrics_port = free_port(), free_port(), free_port()
        self.container = Container(
            image,
            "serve",
            "--id=contained",
            f"--port={self.port}",
            f"--healthz-port={self.health_port}",
            f"--metrics-port={self.metrics_port}",
            "--etcd-embed=false",
            f"--etcd-client-endpoints={etcd.endpoint}",
            "--etcd-data-dir=/var/lib/scheduler",
            "--log-as-json",
        )
        self.address = f"127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def served(image: str, etcd: EtcdServer) -> Iterator[Served]:
    one = Served(image, etcd)
    try:
        wait_until(one.ready, timeout_s=30, what="the container is ready")
        yield one
    finally:
        print(one.container.logs())
        one.container.remove()


def test_it_serves_restricted_and_drains(served: Served, etcd: EtcdServer, image: str, tmp_path: Path) -> None:
    process = Path("/proc") / str(served.container.inspect()["State"]["Pid"])
    facts = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["65532"] * 4 and facts["Gid"].split() == ["65532"] * 4
    assert {facts[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2"
    mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    assert [one[5].split(",")[0] for one in mounts if one[4] == "/"] == ["ro"]

    # The command of `helm test`, from the same image and as restricted.
    verify = ("job", "verify", f"--address={served.address}", "--app-id=verify")
    assert "fired" in podman("run", "--rm", "--network=host", *RESTRICTED, image, *verify)

    client, watcher = Client(served.address), Watcher([served.address], verdict=lambda _: None)
    try:
        wait_until(lambda: bool(watcher.connected), timeout_s=10, what="the stream stands")
        client.schedule("held", due_time="0s", repeats=1, schedule="@every 1h")
        wait_until(lambda: bool(watcher.hits), timeout_s=10, what="the job fires")
        reader = EtcdReader(etcd.port)
        assert set(reader.owners().values()) == {"contained"}
        asked = time.monotonic()
        served.container.signal("TERM")
        wait_until(lambda: not served.ready(), timeout_s=5, what="it says that it goes")
        assert served.container.inspect()["State"]["Running"], "it left a trigger that an app is at work on"
        watcher.hits[0].answer()
        assert served.container.wait(timeout_s=30) == 0
        assert time.monotonic() - asked < 8, "longer than its drain timeout"
        assert reader.owners() == {}, "partitions were given up, not left to their lease"
        # Whoever comes next finds the answer that came while it drained.
        successor = Replica("successor", tmp_path / "successor", etcd.endpoint).start()
        try:
            watcher.add(successor.address)
            wait_until(lambda: successor.address in watcher.connected, timeout_s=15, what="the next replica serves")
            wait_until(lambda: reader.range("/scheduler/jobs/") == {}, timeout_s=15, what="the finished job is gone")
            assert len(watcher.hits) == 1
        finally:
            successor.close()
    finally:
        watcher.close()
        client.close()


def test_nothing_in_it_is_for_building(image: str) -> None:
    found = json.loads(podman("image", "inspect", image))[0]
    assert found["User"] == "65532:65532"
    base = json.loads(podman("image", "inspect", (container_tools() / "base").read_text().strip()))[0]
    own = found["Size"] - base["Size"]
    print(f"image: {found['Size'] / MIB:.0f} MiB, of which {own / MIB:.0f} MiB are not the base")
    assert own < 100 * MIB and found["Size"] < 280 * MIB
    probe = "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'pkg_resources', 'pytest') if u.find_spec(n)])"
    assert podman("run", "--rm", "--network=none", "--entrypoint=/opt/scheduler/bin/python", image, "-c", probe) == "[]"
