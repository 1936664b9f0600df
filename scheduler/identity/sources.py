"""Where our certificates come from, again and again: files that somebody else renews, or the reference's certificate authority."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from scheduler.identity.certificates import Material
from scheduler.identity.contexts import read_material
from scheduler.logs import get_logger
from scheduler.metrics import IdentityStatistics

# Reading three small files costs nothing; asking their contents, not their times, also sees what Kubernetes does with links.
_POLL_S = 3.0

_log = get_logger("identity")


class Source(Protocol):
    """Where a `Material` comes from, and its successors."""

    async def fetch(self) -> Material:
        """The first. Raises OSError, ValueError, or SchedulerError."""

    async def follow(self, use: Callable[[Material], None], current: Material) -> None:
        """Hand over each later one until cancelled."""


class FileSource:
    """Certificate, key and trust anchors in files."""

    def __init__(
        self,
        name: str,
        certificate: Path | None,
        key: Path | None,
        anchors: Path | None,
        statistics: IdentityStatistics,
    ) -> None:
        """`name` is what logs and metrics call it."""
        self._name = name
        self._paths = (certificate, key, anchors)
        self._statistics = statistics

    async def fetch(self) -> Material:
        """What the files hold now. Raises OSError."""
        material = read_material(*self._paths)
        self._statistics.note_expiry(self._name, _expiry(material))
        return material

    async def follow(self, use: Callable[[Material], None], current: Material) -> None:
        """Hand over each new content until cancelled; one that cannot be used is refused, and what was in force stays."""
        refused: Material | None = None
        while True:
            await asyncio.sleep(_POLL_S)
            found = None
            try:
                found = read_material(*self._paths)
                if found in (current, refused):
                    continue
                use(found)
            except (OSError, ValueError, ssl.SSLError) as error:
                refused = found or refused
                self._statistics.reloads["failed"] += 1
                _log.error(
                    "certificate_refused", source=self._name, error=str(error), hint="the one before stays in force"
                )
                continue
            current, refused = found, None
            self._statistics.reloads["ok"] += 1
            self._statistics.note_expiry(self._name, _expiry(found))
            _log.info("certificate_reloaded", source=self._name, expires=str(_expiry(found)))


def _expiry(material: Material) -> datetime | None:
    try:
        return material.expires()
    except ValueError:
        return None
