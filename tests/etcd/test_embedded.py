"""The etcd that runs as our child."""

import asyncio
import socket

import pytest

from scheduler.etcd import embedded
from scheduler.etcd.binary import find_etcd
from scheduler.etcd.embedded import EmbeddedEtcd

pytestmark = pytest.mark.etcd


async def test_a_port_of_its_own_choice_that_somebody_takes_meanwhile_is_chosen_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(embedded, "_RESTART_PAUSE_S", (0.01, 0.01))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free, first = embedded.free_port, iter([taken.getsockname()[1]])
        monkeypatch.setattr(embedded, "free_port", lambda: next(first, None) or free())
        etcd = EmbeddedEtcd(binary=find_etcd(), data_dir=tmp_path)
        assert await etcd.start(asyncio.Event())
        assert not etcd.endpoint.endswith(f":{taken.getsockname()[1]}")
        await etcd.stop()
