"""What answers at an address where no scheduler did, and what to do about it: one sentence for whoever gave a wrong port or forgot TLS."""

import asyncio
import contextlib
import socket
import ssl

from scheduler.cli.endpoint import Endpoint
from scheduler.http2.client import ConnectError, parse_target
from scheduler.http2.grpc import RpcError, Status

_TIMEOUT_S = 2.0
_FIRST_BYTES = 64
_PROBE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def diagnose(endpoint: Endpoint, error: RpcError) -> str:
    """Look at what is there, in a few seconds at most, after `error`. Never raises for what it finds."""
    if isinstance(error, ConnectError) and error.target != endpoint.address:
        return (
            f"{endpoint.address} named it, and it cannot be reached from here: run this where sidecars reach it, or have that replica tell "
            "another address with --override-broadcast-host-port."
        )
    if await _serves(endpoint):
        if isinstance(error, ConnectError):
            return "It answers by now: try again."
        return "The scheduler itself answers: what it needs does not, most likely etcd. `scheduler doctor` looks."
    try:
        host, port = parse_target(endpoint.address)
    except ValueError:
        return f"Is a scheduler running at {endpoint.address}?"
    return await _what_else(endpoint, host, port)


async def _what_else(endpoint: Endpoint, host: str, port: int) -> str:
    """Where no scheduler answers: what does."""
    wants_tls = endpoint.tls_ca_file is not None or endpoint.tls_cert_file is not None
    try:
        answer = await _say(host, port, _PROBE)
    except socket.gaierror:
        return f"The host {host!r} is not known here: look at --address."
    except ConnectionRefusedError:
        return f"Nothing listens at {endpoint.address}. Start a scheduler with `scheduler serve`, or name another with --address."
    except (OSError, TimeoutError):
        return f"{host} does not answer at all: look at --address, and at firewalls on the way."
    if answer.startswith(b"HTTP/1."):
        return (
            f"An HTTP server answers at {endpoint.address}, perhaps the health or metrics port: --address must be a scheduler's gRPC port, "
            "usually 50006."
        )
    if await _speaks_tls(host, port):
        if wants_tls:
            return _tls_advice(endpoint)
        return f"The server at {endpoint.address} speaks TLS: add --tls-ca-file, and --tls-cert-file with --tls-key-file for mutual TLS."
    if wants_tls:
        return f"The server at {endpoint.address} does not speak TLS: leave --tls-ca-file, --tls-cert-file and --tls-key-file out."
    return f"Something listens at {endpoint.address}, but it does not answer as a scheduler: look at --address."


def _tls_advice(endpoint: Endpoint) -> str:
    if endpoint.tls_cert_file is None:
        return "It may want a certificate of ours: add --tls-cert-file and --tls-key-file."
    return (
        "Its certificate must lead to --tls-ca-file and be for the host in --address (else give --tls-server-name), and ours must lead "
        "to the CA that the server trusts."
    )


async def _serves(endpoint: Endpoint) -> bool:
    """Whether a gRPC server answers, whatever it says of its health."""
    try:
        channel = endpoint.connect(endpoint.address)
    except (OSError, ValueError):
        return False
    try:
        await channel.unary("/grpc.health.v1.Health/Check", b"", timeout_s=_TIMEOUT_S)
    except RpcError as error:
        return error.status not in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.INTERNAL, Status.UNIMPLEMENTED}
    finally:
        await channel.close()
    return True


async def _say(host: str, port: int, text: bytes) -> bytes:
    """What comes back first; nothing where the peer hangs up or keeps silent. Raises OSError, or TimeoutError where connecting takes too long."""
    async with asyncio.timeout(_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(text)
        async with asyncio.timeout(_TIMEOUT_S):
            return await reader.read(_FIRST_BYTES)
    except (OSError, TimeoutError):
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether a handshake gets as far as the server's certificate; whose it is does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
