"""Lines authz/* of section 9 (scheduler-service.md), and the identity table of reliability.md 5.2 on a real replica: who is let in, and as whom."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conformance.conftest import Deployment
from tests.conftest import Cluster
from tests.support.certificates import Authority
from tests.support.client import SERVICE, actor_metadata, job_metadata
from tests.support.processes import EtcdServer

pytestmark = pytest.mark.e2e
GOOD = "spiffe://public/ns/default/app"
REFUSED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
Leaf = tuple[Path, Path]


class Secured:
    """A replica with mutual TLS."""

    def __init__(self, cluster: Cluster, authority: Authority, directory: Path) -> None:
        self.authority = authority
        self.directory = directory
        self.replica = cluster.replicas[0]

    def channel(self, leaf: Leaf | None) -> grpc.Channel:
        files = (leaf[1].read_bytes(), leaf[0].read_bytes()) if leaf else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.ca_file.read_bytes(), *files)
        return grpc.secure_channel(f"localhost:{self.replica.port}", credentials)

    def call(self, leaf: Leaf | None, method: str, request) -> tuple[grpc.StatusCode, str]:
        with self.channel(leaf) as channel:
            try:
                if method == "WatchJobs":
                    rpc = channel.stream_stream(
                        f"{SERVICE}/{method}", request_serializer=lambda message: message.SerializeToString()
                    )
                    call = rpc(iter([request]), timeout=30)  # the half-close ends an accepted stream with CANCELLED
                    list(call)
                elif method == "WatchHosts":
                    next(iter(channel.unary_stream(f"{SERVICE}/{method}")(b"", timeout=30)))
                else:
                    channel.unary_unary(f"{SERVICE}/{method}")(request.SerializeToString(), timeout=30)
            except grpc.RpcError as error:
                return error.code(), error.details()
            return grpc.StatusCode.OK, ""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    authority = Authority(directory / "ca")
    certificate, key = authority.leaf("scheduler", ["spiffe://localhost/ns/dapr-system/dapr-scheduler"])
    etcd = EtcdServer(directory / "etcd").start()
    flags = [f"--tls-cert-file={certificate}", f"--tls-key-file={key}", f"--tls-ca-file={authority.ca_file}"]
    cluster = Cluster(etcd, directory).start(1, *flags, settle_hosts=False)
    yield Secured(cluster, authority, directory)
    cluster.close()
    etcd.close()


def requests(metadata: pb.JobMetadata) -> dict[str, object]:
    initial = pb.WatchJobsRequestInitial(app_id=metadata.app_id, namespace=metadata.namespace)
    return {
        "ScheduleJob": pb.ScheduleJobRequest(name="x", job=pb.Job(due_time="1h"), metadata=metadata, overwrite=True),
        "GetJob": pb.GetJobRequest(name="x", metadata=metadata),
        "ListJobs": pb.ListJobsRequest(metadata=metadata),
        "DeleteJob": pb.DeleteJobRequest(name="x", metadata=metadata),
        "DeleteByMetadata": pb.DeleteByMetadataRequest(metadata=metadata),
        "DeleteByNamePrefix": pb.DeleteByNamePrefixRequest(metadata=metadata, name_prefix="x"),
        "WatchJobs": pb.WatchJobsRequest(initial=initial),
    }


@pytest.mark.parametrize("kind", ["job", "actor"])
def test_mtls(secured: Secured, kind: str) -> None:
    """authz/mtls.go: each RPC for the caller's own app works; for anybody else it is PERMISSION_DENIED, whether the job exists or not."""
    app, other = (
        secured.authority.leaf("app", [GOOD]),
        secured.authority.leaf("other", ["spiffe://public/ns/default/other"]),
    )

    def metadata(app_id: str, namespace: str = "default") -> pb.JobMetadata:
        return job_metadata(app_id, namespace) if kind == "job" else actor_metadata("kind", "id", app_id, namespace)

    accepted = {"WatchJobs": grpc.StatusCode.CANCELLED}
    for method, request in requests(metadata("app")).items():
        assert secured.call(app, method, request)[0] is accepted.get(method, grpc.StatusCode.OK), method
    secured.call(app, "ScheduleJob", requests(metadata("app"))["ScheduleJob"])
    foreign = [
        ("other", "default"),
        ("app", "elsewhere"),
        ("App", "default"),
        ("app", "Default"),
        ("app||x", "default"),
        ("app", "default||app"),
    ]
    for app_id, namespace in foreign:
        for method, request in requests(metadata(app_id, namespace)).items():
            code, text = secured.call(app, method, request)
            assert code is grpc.StatusCode.PERMISSION_DENIED, (method, app_id, namespace, code, text)
            assert text.endswith("identity does not match request"), text
    for app_id, namespace in [("", "default"), ("app", "")]:
        for method, request in requests(metadata(app_id, namespace)).items():
            assert secured.call(app, method, request)[0] is grpc.StatusCode.INVALID_ARGUMENT, method
    # The same words, whether the job is there (x) or not.
    answers = {
        secured.call(other, "GetJob", pb.GetJobRequest(name=name, metadata=metadata("app"))) for name in ("x", "y")
    }
    assert answers == {(grpc.StatusCode.PERMISSION_DENIED, "identity does not match request")}
    assert secured.call(app, "GetJob", requests(metadata("app"))["GetJob"])[0] is grpc.StatusCode.OK


def test_watchhosts_needs_a_certificate_and_no_more(secured: Secured) -> None:
    """T18: any client of the trust anchors may ask; a stranger reaches no handler."""
    assert secured.call(secured.authority.leaf("anybody", [GOOD]), "WatchHosts", None)[0] is grpc.StatusCode.OK
    assert secured.call(None, "WatchHosts", None)[0] in REFUSED


UNAUTHENTICATED = {
    "two URIs": {"uris": [GOOD, GOOD + "2"]},
    "no URI": {"uris": []},
    "https": {"uris": ["https://public/ns/default/app"]},
    "a CA as leaf": {"uris": [GOOD], "ca": True},
    "a leaf that may sign": {"uris": [GOOD], "signs": True},
    "another trust domain": {"uris": ["spiffe://elsewhere/ns/default/app"]},
    "traversal": {"uris": ["spiffe://public/ns/a/../b/app"]},
    "trailing slash": {"uris": [GOOD + "/"]},
}


@pytest.mark.parametrize("case", UNAUTHENTICATED)
def test_who_proves_nothing_is_nobody(secured: Secured, case: str) -> None:
    leaf = secured.authority.leaf(f"nobody {case}", **UNAUTHENTICATED[case])
    for method, request in requests(job_metadata()).items():
        code, text = secured.call(leaf, method, request)
        # OpenSSL itself refuses a CA that shows itself as a client.
        allowed = {grpc.StatusCode.UNAUTHENTICATED, *(REFUSED if "CA" in case else ())}
        assert code in allowed, (method, code, text)
        if code is grpc.StatusCode.UNAUTHENTICATED:
            assert text.endswith("failed to get identity from context"), (method, text)


def test_who_is_refused_at_the_door(secured: Secured) -> None:
    authority = secured.authority
    stranger = Authority(secured.directory / "stranger")
    request = requests(job_metadata())["ListJobs"]
    assert secured.call(None, "ListJobs", request)[0] in REFUSED
    assert secured.call(stranger.leaf("stranger", [GOOD]), "ListJobs", request)[0] in REFUSED
    assert secured.call(authority.leaf("expired", [GOOD], days=-1), "ListJobs", request)[0] in REFUSED
    assert secured.call(authority.leaf("later", [GOOD], later=True), "ListJobs", request)[0] in REFUSED
    assert secured.call(authority.leaf("server", [GOOD], client=False), "ListJobs", request)[0] in REFUSED
    with grpc.insecure_channel(f"localhost:{secured.replica.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"{SERVICE}/ListJobs")(b"", timeout=30)
    assert caught.value.code() in REFUSED


def test_an_extra_segment_is_the_same_identity(secured: Secured) -> None:
    leaf = secured.authority.leaf("extra", [GOOD + "/extra"])
    assert secured.call(leaf, "ListJobs", requests(job_metadata())["ListJobs"])[0] is grpc.StatusCode.OK


def test_nomtls(deployment: Deployment) -> None:
    """authz/nomtls.go: without TLS a job can be scheduled, for anybody."""
    deployment.schedule("x", due_time="1h")
    deployment.schedule("x", metadata=deployment.job("another"), due_time="1h")
    assert deployment.client.get("x", deployment.job("another")).due_time == "1h"
