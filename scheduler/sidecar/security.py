"""Mutual TLS towards the schedulers (sidecar-and-jobs-api.md 4.5): our certificate from files or from Sentry, and who a scheduler must be."""

import random
from functools import partial
from pathlib import Path

from scheduler.aio.clock import SystemClock
from scheduler.config import SidecarSettings
from scheduler.identity.certificates import Material, server_problem
from scheduler.identity.contexts import ClientTls
from scheduler.identity.sentry import SentrySource
from scheduler.identity.sources import FileSource, Source
from scheduler.metrics import IdentityStatistics
from scheduler.upstream.schedulers import Security


def source_of(settings: SidecarSettings, rng: random.Random) -> Source | None:
    """Where our certificates come from; None in plaintext."""
    statistics = IdentityStatistics()
    if settings.tls_cert_file is not None:
        files = (settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file)
        return FileSource("schedulers", *files, statistics)
    if not settings.from_sentry:
        return None
    return SentrySource(
        address=settings.sentry_address,
        trust_domain=settings.trust_domain,
        namespace=settings.namespace,
        app_id=settings.app_id,
        anchors_file=Path(),
        anchors=settings.trust_anchors.encode(),
        token_file=settings.sentry_token_file,
        kubernetes=settings.mode == "kubernetes",
        clock=SystemClock(),
        rng=rng,
        statistics=statistics,
        sentry=f"spiffe://{settings.control_plane_trust_domain}/ns/{settings.control_plane_namespace}/dapr-sentry",
    )


class ClientIdentity:
    """Made once a certificate is there; `follow` keeps it fresh."""

    def __init__(self, source: Source, material: Material, *, server: str) -> None:
        """`server` is the SPIFFE identity that a scheduler must have. Raises ssl.SSLError or ValueError for material that cannot be used."""
        self._source = source
        self._first = material
        # Schedulers are told by identity: their addresses are any that the cluster happens to have.
        self._tls = ClientTls(material, check_hostname=False)
        self.security = Security(tls=self._tls, check_server=partial(server_problem, wanted=server))

    async def follow(self) -> None:
        """Exchange certificates as they are renewed, until cancelled; the next connection shows the new one."""
        await self._source.follow(self._tls.update, self._first)
