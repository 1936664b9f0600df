"""TLS contexts whose certificates and trust anchors can be exchanged while connections stand: the next handshake takes the new ones."""

import os
import ssl
from pathlib import Path

from scheduler.identity.certificates import Material


def _load_chain(context: ssl.SSLContext, material: Material) -> None:
    """The ssl module reads keys from files only: this one exists in memory alone."""
    handle = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(material.certificate.rstrip() + b"\n" + material.key)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


class ServerTls:
    """TLS 1.2 and newer, h2 only; with trust anchors clients must show a certificate."""

    def __init__(self, material: Material) -> None:
        """Raises ssl.SSLError or ValueError for material that cannot be used."""
        self._current = self._build(material)
        # What listeners hold: it hands each handshake over to the context that is current then.
        self.context = self._build(material)
        self.context.sni_callback = self._hand_over

    def update(self, material: Material) -> None:
        """From the next handshake on. Raises as the constructor does, and changes nothing then."""
        self._current = self._build(material)

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    @staticmethod
    def _build(material: Material) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_chain(context, material)
        context.set_alpn_protocols(["h2"])
        # A resumed session would skip the look at the certificate, and at the anchors that are current.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        if material.anchors:
            context.load_verify_locations(cadata=material.anchors.decode("ascii"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class ClientTls:
    """Verifies servers against the trust anchors (without any: the system's), shows our certificate where there is one."""

    def __init__(self, material: Material, *, check_hostname: bool = True) -> None:
        """Without `check_hostname` the caller must look at who the server is. Raises ssl.SSLError or ValueError."""
        self._check_hostname = check_hostname
        self.update(material)

    def update(self, material: Material) -> None:
        """From the next connection on. Raises as the constructor does, and changes nothing then."""
        context = ssl.create_default_context(cadata=material.anchors.decode("ascii") or None)
        context.check_hostname = self._check_hostname
        context.set_alpn_protocols(["h2"])
        if material.certificate:
            _load_chain(context, material)
        self._context = context

    def __call__(self) -> ssl.SSLContext:
        """The context for a connection that is made now."""
        return self._context


def read_material(certificate: Path | None, key: Path | None, anchors: Path | None) -> Material:
    """From files. Raises OSError."""
    return Material(
        certificate=certificate.read_bytes() if certificate else b"",
        key=key.read_bytes() if key else b"",
        anchors=anchors.read_bytes() if anchors else b"",
    )
