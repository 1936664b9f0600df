"""Lines kubernetes/* of section 9 (scheduler-service.md 6.4): jobs go with their namespace, against a small API server and a real replica."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from aiohttp import web

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conftest import Cluster
from tests.support.certificates import Authority
from tests.support.client import SERVICE, actor_metadata, job_metadata
from tests.support.processes import EtcdServer, free_port, wait_until

pytestmark = pytest.mark.e2e


class ApiServer:
    """Namespaces: list, get and watch, as the Kubernetes API serves them."""

    def __init__(self) -> None:
        self.port = free_port()
        self.names = {"default", "default-foo", "def", "kube-system"}
        self.revision = 10
        self.too_old = False
        self.lists = self.watches = 0
        self._queues: set[asyncio.Queue] = set()
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.up()

    def up(self) -> None:
        asyncio.run_coroutine_threadsafe(self._up(), self._loop).result(10)

    async def _up(self) -> None:
        application = web.Application()
        application.add_routes(
            [web.get("/api/v1/namespaces", self._list), web.get("/api/v1/namespaces/{name}", self._get)]
        )
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    def down(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)

    def _object(self, name: str) -> dict:
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "resourceVersion": str(self.revision)},
        }

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in {"true", "True", "1"}:
            self.lists += 1
            items = [self._object(name) for name in sorted(self.names)]
            metadata = {"resourceVersion": str(self.revision)}
            return web.json_response(
                {"apiVersion": "v1", "kind": "NamespaceList", "metadata": metadata, "items": items}
            )
        self.watches += 1
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if self.too_old:
            self.too_old = False
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": 410,
                "reason": "Expired",
                "message": "too old",
            }
            await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            return response
        queue: asyncio.Queue = asyncio.Queue()
        self._queues.add(queue)
        try:
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self._queues.discard(queue)
        return response

    async def _get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name in self.names:
            return web.json_response(self._object(name))
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": 404,
            "reason": "NotFound",
            "message": "gone",
        }
        return web.json_response(status, status=404)

    def event(self, kind: str, name: str) -> None:
        self.revision += 1
        for queue in list(self._queues):
            self._loop.call_soon_threadsafe(queue.put_nowait, {"type": kind, "object": self._object(name)})

    @property
    def open_watches(self) -> int:
        return len(self._queues)

    def end_watches(self) -> None:
        for queue in list(self._queues):
            self._loop.call_soon_threadsafe(queue.put_nowait, None)

    def close(self) -> None:
        self.end_watches()
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Place:
    """Two replicas in Kubernetes mode, an API server, and a client per namespace."""

    def __init__(self, etcd: EtcdServer, directory: Path) -> None:
        self.api = ApiServer()
        self.authority = Authority(directory / "ca")
        kubeconfig = directory / "kubeconfig.yaml"
        kubeconfig.write_text(
            f"""apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: "http://127.0.0.1:{self.api.port}"}}}}]
users: [{{name: test, user: {{token: secret}}}}]
"""
        )
        certificate, key = self.authority.leaf("own", ["spiffe://localhost/ns/dapr-system/dapr-scheduler"])
        flags = [
            "--mode=kubernetes", f"--kubeconfig={kubeconfig}",
            f"--tls-cert-file={certificate}", f"--tls-key-file={key}", f"--tls-ca-file={self.authority.ca_file}",
        ]  # fmt: skip
        self.cluster = Cluster(etcd, directory).start(2, *flags, settle_hosts=False)

    def call(self, method: str, namespace: str, request) -> bytes:
        certificate, key = self.authority.leaf(f"app-{namespace}", [f"spiffe://public/ns/{namespace}/app"])
        credentials = grpc.ssl_channel_credentials(
            self.authority.ca_file.read_bytes(), key.read_bytes(), certificate.read_bytes()
        )
        with grpc.secure_channel(f"localhost:{self.cluster.running[0].port}", credentials) as channel:
            return channel.unary_unary(f"{SERVICE}/{method}")(request.SerializeToString(), timeout=10)

    def fill(self, *namespaces: str) -> None:
        for namespace in namespaces:
            for metadata in (job_metadata("app", namespace), actor_metadata("kind", "id", "app", namespace)):
                for number in range(3):
                    request = pb.ScheduleJobRequest(
                        name=f"j{number}", job=pb.Job(due_time="1h"), metadata=metadata, overwrite=True
                    )
                    self.call("ScheduleJob", namespace, request)

    def keys(self, namespace: str) -> int:
        return sum(key.split("||")[1] == namespace for key in self.cluster.reader.range("/scheduler/jobs/"))

    def close(self) -> None:
        self.cluster.close()
        self.api.close()


@pytest.fixture
def place(etcd: EtcdServer, tmp_path: Path) -> Iterator[Place]:
    one = Place(etcd, tmp_path)
    yield one
    one.close()


def test_namespace_and_prefix(place: Place) -> None:
    """kubernetes/namespace.go and prefix.go: `default` is deleted; `default-foo` and `def` keep their jobs and reminders."""
    place.fill("default", "default-foo", "def")
    wait_until(lambda: place.api.open_watches == 1, timeout_s=30, what="one replica watches, the other does not")
    place.api.names.discard("default")
    place.api.event("DELETED", "default")
    wait_until(lambda: place.keys("default") == 0, timeout_s=30, what="the namespace's jobs and reminders are gone")
    assert (place.keys("default-foo"), place.keys("def")) == (6, 6)
    assert place.api.watches == 1


def test_an_event_alone_deletes_nothing(place: Place) -> None:
    """A namespace that the API server still knows by name keeps its jobs, whatever an event or an empty list says."""
    place.fill("default", "def")
    wait_until(lambda: place.api.open_watches == 1, timeout_s=30, what="a watch")
    place.api.event("DELETED", "default")
    place.api.names.discard("def")
    place.api.event("DELETED", "def")
    wait_until(lambda: place.keys("def") == 0, timeout_s=30, what="the one that is gone")
    assert place.keys("default") == 6


def test_retry_and_missed_deletions(place: Place) -> None:
    """kubernetes/retry.go, W28: the API server goes and comes back, a watch is too old, the acting replica leaves: what was deleted meanwhile is found."""
    place.fill("default", "default-foo", "def")
    wait_until(lambda: place.api.open_watches == 1, timeout_s=30, what="a watch")
    place.api.down()
    place.api.names.discard("def")
    place.api.up()
    wait_until(lambda: place.keys("def") == 0, timeout_s=30, what="what was deleted while the API server was away")
    wait_until(lambda: place.api.open_watches == 1, timeout_s=30, what="a watch again")
    place.api.too_old = True
    lists = place.api.lists
    place.api.end_watches()
    wait_until(lambda: place.api.lists >= lists + 2, timeout_s=30, what="a watch that is too old leads to another list")
    acting = [name for partition, name in place.cluster.reader.owners().items() if partition == 0]
    leaving = next(replica for replica in place.cluster.running if replica.name == acting[0])
    wait_until(lambda: place.api.open_watches == 1, timeout_s=30, what="the last watch of the one that leaves")
    # No event says so, and it is gone before the other can have compared: only the other's comparison finds it.
    place.api.names.discard("default")
    assert leaving.terminate() == 0
    wait_until(lambda: place.keys("default") == 0, timeout_s=30, what="the other replica acts")
    assert place.keys("default-foo") == 6


def test_kubeconfig_needs_the_mode() -> None:
    from tests.cli.test_cli import run

    code, output = run("serve", "--kubeconfig=x")
    assert code == 1
    assert "kubeconfig flag is only valid in --mode=kubernetes" in output
