"""Mutual TLS towards the schedulers (sidecar-and-jobs-api.md 4.5): our certificate, exchanged while running, and who a scheduler must be."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from scheduler.identity.certificates import Material, server_problem
from scheduler.identity.contexts import ClientTls
from scheduler.identity.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """TLS towards the schedulers: the context of the next connection, and what is wrong with a server's certificate (DER)."""

    tls: Callable[[], ssl.SSLContext]
    check_server: Callable[[bytes], str | None] | None = None


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
