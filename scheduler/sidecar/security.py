"""Where the sidecar's certificate comes from (sidecar-and-jobs-api.md 4.5): files, or Sentry."""

import random
from pathlib import Path

from scheduler.aio.clock import SystemClock
from scheduler.config import SidecarSettings
from scheduler.identity.sentry import SentrySource
from scheduler.identity.sources import FileSource, Source
from scheduler.metrics import IdentityStatistics


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
