"""What sidecars are told to connect to (scheduler-service.md 4.5)."""

import pytest

from scheduler import app
from scheduler.config import ServeSettings


@pytest.mark.parametrize(
    ("settings", "environment", "told"),
    [
        ({}, None, "127.0.0.1:50006"),
        ({"listen_address": "localhost"}, None, "localhost:50006"),
        ({"listen_address": "::1"}, None, "[::1]:50006"),
        ({"listen_address": "[::1]"}, None, "[::1]:50006"),
        ({"listen_address": "0.0.0.0", "allow_insecure": True}, "10.1.2.3", "10.1.2.3:50006"),
        ({"listen_address": "", "allow_insecure": True}, "fd00::1", "[fd00::1]:50006"),
        ({"override_broadcast_host_port": "name.example:443"}, "10.1.2.3", "name.example:443"),
    ],
)
def test_the_advertised_address(
    monkeypatch: pytest.MonkeyPatch, settings: dict, environment: str | None, told: str
) -> None:
    if environment:
        monkeypatch.setenv("DAPR_HOST_IP", environment)
    assert app._advertised(ServeSettings(**settings), 50006) == told
