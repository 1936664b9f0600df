"""A certificate from a small Sentry (scheduler-service.md 6.1): a real gRPC server that signs real certificates. Covers servingcerted.go."""

import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from scheduler._pb.dapr.proto.sentry.v1.sentry_pb2 import SignCertificateRequest, SignCertificateResponse
from tests.support.certificates import Authority
from tests.support.processes import Replica, free_port, wait_until

pytestmark = pytest.mark.e2e


class Sentry:
    """Signs for whoever asks, and notes what was asked."""

    def __init__(
        self,
        authority: Authority,
        port: int,
        *,
        identity: str = "spiffe://localhost/ns/system/dapr-sentry",
        days: float = 1,
    ) -> None:
        self.authority, self.days = authority, days
        self.requests: list[SignCertificateRequest] = []
        certificate, key = authority.leaf(f"sentry {port} {len(identity)}", [identity])
        self._server = grpc.server(ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(
            self._sign,
            request_deserializer=SignCertificateRequest.FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("dapr.proto.sentry.v1.CA", {"SignCertificate": handler})]
        )
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self._server.start()

    def _sign(self, request: SignCertificateRequest, context: grpc.ServicerContext) -> SignCertificateResponse:
        self.requests.append(request)
        if request.token != "the token":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "a wrong token")
        asked = x509.load_pem_x509_csr(request.certificate_signing_request)
        assert asked.is_signature_valid
        uri = f"spiffe://{request.trust_domain}/ns/{request.namespace}/{request.id}"
        leaf = self.authority.sign("workload", asked.public_key(), [uri], days=self.days)
        return SignCertificateResponse(workload_certificate=leaf.public_bytes(serialization.Encoding.PEM))

    def close(self) -> None:
        self._server.stop(0).wait()


@pytest.fixture
def place(etcd, tmp_path: Path):
    """An authority, a port for Sentry, and a replica that asks there."""
    authority, port = Authority(tmp_path / "ca"), free_port()
    token = tmp_path / "token"
    token.write_text("the token\n")
    flags = ["--tls-enabled", f"--sentry-address=localhost:{port}", f"--trust-anchors-file={authority.ca_file}"]
    replica = Replica(
        "one", tmp_path / "one", etcd.endpoint, *flags, f"--sentry-token-file={token}", "--namespace=system"
    )
    yield authority, port, replica
    replica.close()


def served(replica: Replica) -> x509.Certificate:
    pem = ssl.get_server_certificate(("127.0.0.1", replica.port), timeout=30)
    return x509.load_pem_x509_certificate(pem.encode())


def test_servingcerted_and_renewal(place) -> None:
    """The serving key is Ed25519, the identity is the control plane's, and a short certificate is renewed before it ends."""
    authority, port, replica = place
    sentry = Sentry(authority, port, days=8 / 86_400)
    replica.start().wait_healthy()
    first = served(replica)
    assert isinstance(first.public_key(), Ed25519PublicKey)
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://localhost/ns/system/dapr-scheduler"]
    request = sentry.requests[0]
    assert (request.id, request.namespace, request.trust_domain, request.token_validator) == (
        "dapr-scheduler", "system", "localhost", SignCertificateRequest.JWKS,
    )  # fmt: skip
    wait_until(
        lambda: served(replica).serial_number != first.serial_number, timeout_s=30, what="the renewed certificate"
    )
    second = served(replica)
    assert second.public_key() != first.public_key()
    sentry.close()
    # While Sentry is away, what is in force stays, and renewal is tried until it works.
    wait_until(lambda: "certificate_not_renewed" in replica.tail(20_000), timeout_s=30, what="it says so")
    sentry = Sentry(authority, port)
    wait_until(lambda: served(replica).serial_number != second.serial_number, timeout_s=30, what="a new one")
    sentry.close()


def test_sentry_comes_late(place) -> None:
    """Without a certificate the replica is alive and not ready, says why, and serves as soon as there is one."""
    authority, port, replica = place
    replica.start()
    wait_until(lambda: "sentry_attempt_failed" in replica.tail(), timeout_s=30, what="it tries")
    assert not replica.healthy()
    sentry = Sentry(authority, port)
    replica.wait_healthy(timeout_s=30)
    sentry.close()


def test_a_false_sentry_gets_nothing(place) -> None:
    """Neither the token nor a request is sent to a server that is not the control plane's Sentry, whoever signed its certificate."""
    authority, port, replica = place
    false = Sentry(authority, port, identity="spiffe://localhost/ns/system/somebody")
    replica.start()
    wait_until(
        lambda: "not spiffe://localhost/ns/system/dapr-sentry" in replica.tail(), timeout_s=30, what="it says so"
    )
    assert not replica.healthy()
    assert false.requests == []
    false.close()
