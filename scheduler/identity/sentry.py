"""Our certificate from the reference's certificate authority, Sentry (scheduler-service.md 6.1), renewed at half of its life."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from scheduler._pb.dapr.proto.sentry.v1.sentry_pb2 import SignCertificateRequest, SignCertificateResponse
from scheduler.aio.clock import Clock
from scheduler.core.errors import SchedulerError
from scheduler.http2.client import Channel
from scheduler.http2.grpc import RpcError
from scheduler.identity.certificates import Material, leads_to, parse_anchors, server_problem, spiffe_uri
from scheduler.identity.contexts import ClientTls
from scheduler.logs import get_logger
from scheduler.metrics import IdentityStatistics

_METHOD = "/dapr.proto.sentry.v1.CA/SignCertificate"
_ATTEMPT_TIMEOUT_S = 3.0
_ATTEMPTS = 5
_PAUSE_S = (1.0, 30.0)

_log = get_logger("identity.sentry")


class SentryError(SchedulerError):
    """No usable certificate could be had from Sentry."""


class SentrySource:
    """Asks for a certificate in our name."""

    def __init__(
        self,
        *,
        address: str,
        trust_domain: str,
        namespace: str,
        app_id: str,
        anchors_file: Path,
        token_file: Path,
        kubernetes: bool,
        clock: Clock,
        rng: random.Random,
        statistics: IdentityStatistics,
        sentry: str = "",
        anchors: bytes = b"",
    ) -> None:
        """`trust_domain` and `namespace` are ours; `sentry` is Sentry's SPIFFE identity, in the same ones unless it is given.

        `anchors` (PEM) stand for the file where they are given; `token_file` need not exist.
        """
        self._address = address
        self._trust_domain = trust_domain
        self._namespace = namespace
        self._app_id = app_id
        self._anchors_file = anchors_file
        self._token_file = token_file
        self._kubernetes = kubernetes
        self._clock = clock
        self._rng = rng
        self._statistics = statistics
        self._sentry = sentry or f"spiffe://{trust_domain}/ns/{namespace}/dapr-sentry"
        self._given_anchors = anchors

    async def fetch(self) -> Material:
        """A certificate, within a few attempts. Raises SentryError, or OSError for anchors that cannot be read."""
        problem = ""
        for attempt in range(_ATTEMPTS):
            try:
                material = await self._ask()
                self._statistics.note_expiry("sentry", material.expires())
            except (RpcError, SentryError, ValueError) as error:
                problem = str(error)
                _log.warning("sentry_attempt_failed", address=self._address, attempt=attempt + 1, error=problem)
                await asyncio.sleep(_PAUSE_S[0] if attempt + 1 < _ATTEMPTS else 0)
            else:
                return material
        raise SentryError(f"no certificate from {self._address} in {_ATTEMPTS} attempts: {problem}")

    async def follow(self, use: Callable[[Material], None], current: Material) -> None:
        """Renew until cancelled; while that does not work, what was in force stays."""
        pause_s = _PAUSE_S[0]
        while True:
            await asyncio.sleep(self._renewal_s(current))
            try:
                current = await self.fetch()
                use(current)
            except (SentryError, OSError, ValueError) as error:
                self._statistics.reloads["failed"] += 1
                _log.error("certificate_not_renewed", error=str(error), expires=str(current.expires()))
                await asyncio.sleep(pause_s)
                pause_s = min(_PAUSE_S[1], pause_s * 2)
            else:
                pause_s = _PAUSE_S[0]
                self._statistics.reloads["ok"] += 1
                _log.info("certificate_renewed", expires=str(current.expires()))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall_ns() / 1e9, UTC)

    def _renewal_s(self, material: Material) -> float:
        """Seconds until half of the certificate's life is over."""
        leaf = x509.load_pem_x509_certificate(material.certificate)
        half = leaf.not_valid_before_utc + (leaf.not_valid_after_utc - leaf.not_valid_before_utc) / 2
        return max(1.0, (half - self._now()).total_seconds())

    async def _ask(self) -> Material:
        key = Ed25519PrivateKey.generate()
        signing_request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
        anchors = self._given_anchors or self._anchors_file.read_bytes()
        token = self._token_file.read_text().strip() if self._token_file.is_file() else ""
        validator = SignCertificateRequest.KUBERNETES if self._kubernetes else SignCertificateRequest.JWKS
        request = SignCertificateRequest(
            id=self._app_id,
            token=token,
            trust_domain=self._trust_domain,
            namespace=self._namespace,
            certificate_signing_request=signing_request.public_bytes(serialization.Encoding.PEM),
            token_validator=validator if token else SignCertificateRequest.UNKNOWN,
        )
        tls = ClientTls(Material(anchors=anchors), check_hostname=False)
        channel = Channel(self._address, tls=tls, check_server=self._check_sentry, rng=self._rng)
        try:
            answer = await channel.unary(_METHOD, request.SerializeToString(), timeout_s=_ATTEMPT_TIMEOUT_S)
        finally:
            await channel.close()
        response = SignCertificateResponse.FromString(answer)
        chain = b"".join((response.workload_certificate, *response.trust_chain_certificates))
        self._check(x509.load_pem_x509_certificates(chain), key, anchors)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Material(certificate=chain, key=private, anchors=anchors)

    def _check_sentry(self, certificate: bytes) -> str | None:
        """Only the control plane's own Sentry may sign for us; host names mean nothing here."""
        return server_problem(certificate, self._sentry)

    def _check(self, chain: list[x509.Certificate], key: Ed25519PrivateKey, anchors: bytes) -> None:
        """What came back must be ours, and lead to the trust anchors. Raises SentryError."""
        leaf = chain[0]
        if leaf.public_key() != key.public_key():
            raise SentryError("the certificate is for another key")
        wanted = f"spiffe://{self._trust_domain}/ns/{self._namespace}/{self._app_id}"
        if spiffe_uri(leaf) != wanted:
            raise SentryError(f"the certificate is for {spiffe_uri(leaf)}, not {wanted}")
        encoded = [one.public_bytes(serialization.Encoding.DER) for one in chain]
        if not leads_to(encoded, parse_anchors(anchors), self._now()):
            raise SentryError("the certificate does not lead to the trust anchors")
