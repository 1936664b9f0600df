"""The server's side of identity, put together: where our certificate comes from, the TLS that shows it, and who hears of new trust anchors."""

from collections.abc import Callable

from scheduler.identity.certificates import Material
from scheduler.identity.contexts import ServerTls
from scheduler.identity.sources import Source


class ServerIdentity:
    """Made once a certificate is there; `follow` keeps it fresh."""

    def __init__(self, source: Source, material: Material) -> None:
        """Raises ssl.SSLError or ValueError for material that cannot be used."""
        self._source = source
        self._first = material
        self._anchors = material.anchors
        self.tls = ServerTls(material)

    async def follow(self, trust: Callable[[bytes], None]) -> None:
        """Exchange certificates as they are renewed, until cancelled; `trust` hears of the anchors, now and when they change."""
        if self._anchors:
            trust(self._anchors)

        def use(material: Material) -> None:
            self.tls.update(material)
            if material.anchors != self._anchors:
                trust(material.anchors)
                self._anchors = material.anchors

        await self._source.follow(use, self._first)
