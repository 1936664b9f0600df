"""Mutual TLS towards a real replica (sidecar-and-jobs-api.md 4.5): certificates from files and from Sentry, and who a scheduler must be."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.client import Client, ClientError, Tls
from scheduler.config import ConfigError, SidecarSettings
from tests.conftest import Cluster
from tests.identity.test_sentry import Sentry
from tests.support.apps import HttpApp
from tests.support.certificates import Authority
from tests.support.processes import EtcdServer, free_port
from tests.support.sidecars import running_sidecar, until

pytestmark = pytest.mark.e2e
SERVER = "spiffe://localhost/ns/default/dapr-scheduler"
JOB = {"dueTime": "0s", "failurePolicy": {"drop": {}}}


@dataclass
class Secured:
    """A replica with mutual TLS, and who signs for it."""

    authority: Authority
    address: str

    def files(self, name: str, uri: str) -> dict[str, Path]:
        certificate, key = self.authority.leaf(name, [uri])
        return {"tls_cert_file": certificate, "tls_key_file": key, "tls_ca_file": self.authority.ca_file}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    authority = Authority(directory / "ca")
    certificate, key = authority.leaf("scheduler", [SERVER])
    etcd = EtcdServer(directory / "etcd").start()
    flags = [f"--tls-cert-file={certificate}", f"--tls-key-file={key}", f"--tls-ca-file={authority.ca_file}"]
    cluster = Cluster(etcd, directory).start(1, *flags, settle_hosts=False)
    yield Secured(authority, cluster.addresses[0])
    cluster.close()
    etcd.close()


async def test_a_certificate_of_the_apps_own_lets_it_schedule_and_receive(secured: Secured) -> None:
    app = HttpApp()
    files = secured.files("mine", "spiffe://public/ns/default/mine")
    async with running_sidecar(secured.address, app_id="mine", app_port=app.port, **files) as sidecar:
        assert (await sidecar.http("POST", "/v1.0/jobs/a", JOB)).status == 204
        await until(lambda: app.names == ["a"])
    app.close()


async def test_a_certificate_of_another_app_is_refused_with_the_schedulers_words(secured: Secured) -> None:
    files = secured.files("theirs", "spiffe://public/ns/default/theirs")
    async with running_sidecar(secured.address, app_id="mine", **files) as sidecar:
        answer = await sidecar.http("POST", "/v1.0/jobs/a", JOB)
        assert answer.status == 403
        assert "code = PermissionDenied" in answer.json["message"]


@pytest.mark.parametrize(
    "wanted", [{"control_plane_trust_domain": "other"}, {"control_plane_namespace": "dapr-system"}]
)
async def test_a_scheduler_that_is_somebody_else_is_not_talked_to(secured: Secured, wanted: dict[str, str]) -> None:
    files = secured.files("mine2", "spiffe://public/ns/default/mine")
    async with running_sidecar(secured.address, ready=False, app_id="mine", **files, **wanted) as sidecar:
        answer = await sidecar.http("GET", "/v1.0/healthz")
        assert answer.json["message"] == "dapr is not ready: [scheduler-watch-hosts]"


async def test_plaintext_gets_nowhere(secured: Secured) -> None:
    async with running_sidecar(secured.address, ready=False, app_id="mine") as sidecar:
        assert (await sidecar.http("GET", "/v1.0/healthz")).status == 500


async def test_a_certificate_from_sentry(secured: Secured, tmp_path: Path) -> None:
    token, port = tmp_path / "token", free_port()
    token.write_text("the token")
    sentry = Sentry(secured.authority, port, identity="spiffe://localhost/ns/default/dapr-sentry")
    app = HttpApp()
    anchors = secured.authority.ca_file.read_text()
    settings = {
        "enable_mtls": True,
        "sentry_address": f"localhost:{port}",
        "sentry_token_file": token,
        "trust_anchors": anchors,
    }
    async with running_sidecar(secured.address, app_id="signed", app_port=app.port, **settings) as sidecar:
        assert (await sidecar.http("POST", "/v1.0/jobs/a", JOB)).status == 204
        await until(lambda: app.names == ["a"])
    (asked,) = sentry.requests
    assert (asked.id, asked.namespace, asked.trust_domain) == ("signed", "default", "public")
    sentry.close()
    app.close()


async def test_the_client_has_the_same(secured: Secured) -> None:
    files = secured.files("client", "spiffe://public/ns/default/client")
    tls = Tls(certificate=files["tls_cert_file"], key=files["tls_key_file"], ca=files["tls_ca_file"])
    async with Client(secured.address, app_id="client", tls=tls) as client:
        await client.schedule("a", due_time="0s")
        async for trigger in client.triggers():
            assert trigger.name == "a"
            break
    async with Client(secured.address, app_id="other", tls=tls) as client:
        with pytest.raises(ClientError) as caught:
            await client.list()
    assert caught.value.code == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    "settings",
    [
        {"tls_cert_file": Path("x")},
        {"tls_cert_file": Path("x"), "tls_key_file": Path("y")},
        {"enable_mtls": True},
        {"mode": "kubernetes", "trust_anchors": "x"},
        {"enable_mtls": True, "sentry_address": "x:1"},
    ],
)
def test_half_an_identity_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="tls-ca-file"):
        SidecarSettings(app_id="x", **settings)
