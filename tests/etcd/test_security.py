"""The etcd client with TLS, and with user and password."""

import asyncio
import random
from pathlib import Path

import grpc
import pytest

from scheduler.etcd.api import Outcome, Put, Range
from scheduler.etcd.client import Client, Credentials
from scheduler.etcd.errors import EtcdAuthError, EtcdUnavailable
from scheduler.identity.contexts import ClientTls, read_material
from tests.support.certificates import Authority
from tests.support.processes import EtcdServer


async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    cert, key = authority.leaf("etcd", [])
    own_cert, own_key = authority.leaf("scheduler", [])
    flags = [f"--cert-file={cert}", f"--key-file={key}", f"--trusted-ca-file={authority.ca_file}", "--client-cert-auth"]
    server = EtcdServer(tmp_path / "etcd", *flags, scheme="https").start()
    try:
        client = Client(
            [f"https://localhost:{server.port}"],
            rng=random.Random(1),
            tls=ClientTls(read_material(own_cert, own_key, authority.ca_file)),
        )
        assert (await client.txn((), (Put(b"k", b"v"),))).outcome is Outcome.COMMITTED
        assert (await client.range(Range(b"k"))).kvs[0].value == b"v"
        await client.close()
        for context in (
            ClientTls(read_material(own_cert, own_key, stranger.ca_file)),
            ClientTls(read_material(*stranger.leaf("x", []), authority.ca_file)),
        ):
            refused = Client([f"https://localhost:{server.port}"], rng=random.Random(1), tls=context)
            with pytest.raises(EtcdUnavailable):
                await refused.range(Range(b"k"), timeout_s=2)
            await refused.close()
    finally:
        server.close()


def text(number: int, value: str) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value.encode()


async def test_user_and_password(etcd) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{etcd.port}") as channel:
        for method, request in (
            ("RoleAdd", text(1, "root")),
            ("UserAdd", text(1, "root") + text(2, "secret")),
            ("UserGrantRole", text(1, "root") + text(2, "root")),
            ("AuthEnable", b""),
        ):
            await asyncio.to_thread(channel.unary_unary(f"/etcdserverpb.Auth/{method}"), request, timeout=30)
    client = Client([etcd.endpoint], rng=random.Random(1), credentials=Credentials(user="root", password="secret"))
    assert (await client.txn((), (Put(b"k", b"v"),))).outcome is Outcome.COMMITTED
    events: list[bytes] = []
    client.watch(
        b"k",
        b"",
        start_revision=1,
        on_events=lambda _revision, new: events.extend(event.kv.value for event in new),
        on_lost=lambda _reason: None,
    )
    async with asyncio.timeout(30):
        while not events:
            await asyncio.sleep(0.01)
    # The token is forgotten by a restart; the client gets a new one by itself.
    etcd.kill()
    etcd.start()
    assert (await client.range(Range(b"k"), timeout_s=10)).kvs[0].value == b"v"
    assert (await client.txn((), (Put(b"k", b"w"),))).outcome is Outcome.COMMITTED
    await client.close()
    for credentials in (None, Credentials(user="root", password="wrong")):
        refused = Client([etcd.endpoint], rng=random.Random(1), credentials=credentials)
        with pytest.raises(EtcdAuthError):
            await refused.range(Range(b"k"), timeout_s=30)
        await refused.close()
