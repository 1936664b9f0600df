"""mTLS and SPIFFE identities on a real replica (reliability.md 5.2): who is let in, and as whom."""

from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.rpc.authz import identity_of
from tests.support.certificates import Authority
from tests.support.client import SERVICE, job_metadata

GOOD = "spiffe://public/ns/default/app"


def der(cert_file: Path) -> bytes:
    return x509.load_pem_x509_certificate(cert_file.read_bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("uris", "accepted"),
    [
        ([GOOD], True),
        ([GOOD + "/extra"], True),
        ([GOOD, "spiffe://public/ns/default/other"], False),
        ([], False),
        (["https://public/ns/default/app"], False),
        (["spiffe://elsewhere/ns/default/app"], False),
        (["spiffe://public/ns/a/../b/app"], False),
        ([GOOD + "/"], False),
        (["spiffe://public/ns//app"], False),
        (["spiffe://public/ns/default/a%70p"], False),
        (["spiffe://user@public/ns/default/app"], False),
        (["spiffe://public:1/ns/default/app"], False),
        ([GOOD + "?q"], False),
        (["spiffe://public/app"], False),
    ],
)
def test_exactly_one_well_formed_identity_is_accepted(tmp_path: Path, uris: list[str], accepted: bool) -> None:
    cert_file, _ = Authority(tmp_path).leaf("leaf", uris)
    identity = identity_of(der(cert_file), frozenset({"public"}))
    assert (identity is not None) == accepted
    if identity is not None:
        assert (identity.namespace, identity.app_id) == ("default", "app")


def test_a_ca_and_a_servers_certificate_are_no_clients(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    assert identity_of(der(authority.leaf("ca-leaf", [GOOD], ca=True)[0]), frozenset()) is None
    assert identity_of(der(authority.leaf("server", [GOOD], client=False)[0]), frozenset()) is None


def test_calls_are_held_to_the_callers_identity(cluster, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other-ca")
    own_cert, own_key = authority.leaf("scheduler", ["spiffe://cp/ns/dapr-system/dapr-scheduler"])
    flags = [
        f"--tls-cert-file={own_cert}",
        f"--tls-key-file={own_key}",
        f"--tls-ca-file={authority.ca_file}",
        "--trust-domain=public",
    ]
    replica = cluster(1, *flags, settle_hosts=False).replicas[0]

    def schedule(leaf: tuple[Path, Path] | None, metadata: pb.JobMetadata) -> grpc.StatusCode:
        files = (leaf[1].read_bytes(), leaf[0].read_bytes()) if leaf else (None, None)
        credentials = grpc.ssl_channel_credentials(authority.ca_file.read_bytes(), *files)
        with grpc.secure_channel(f"localhost:{replica.port}", credentials) as channel:
            request = pb.ScheduleJobRequest(name="x", job=pb.Job(due_time="1h"), metadata=metadata, overwrite=True)
            try:
                channel.unary_unary(f"{SERVICE}/ScheduleJob")(request.SerializeToString(), timeout=5)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    app = authority.leaf("app", [GOOD])
    assert schedule(app, job_metadata("app")) is grpc.StatusCode.OK
    assert schedule(app, job_metadata("other")) is grpc.StatusCode.PERMISSION_DENIED
    assert schedule(app, job_metadata("app", "elsewhere")) is grpc.StatusCode.PERMISSION_DENIED
    assert schedule(authority.leaf("two", [GOOD, GOOD + "2"]), job_metadata("app")) is grpc.StatusCode.UNAUTHENTICATED
    refused = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert schedule(None, job_metadata("app")) in refused
    assert schedule(stranger.leaf("stranger", [GOOD]), job_metadata("app")) in refused
    assert schedule(authority.leaf("expired", [GOOD], days=-1), job_metadata("app")) in refused
