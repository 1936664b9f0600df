"""Who may steer a cluster, and what the log says of those who may not."""

import logging
from types import SimpleNamespace

import pytest

from scheduler.config import ConfigError, ServeSettings
from scheduler.http2.grpc import RpcError, Status
from scheduler.metrics import RpcStatistics
from scheduler.rpc.authz import DENIALS_LOGGED_PER_S, Authorizer, matches


class Clock:
    now_s = 5.0

    def wall_ns(self) -> int:
        return int(self.now_s * 1e9)

    def boottime_s(self) -> float:
        return self.now_s


def call(address: str) -> SimpleNamespace:
    return SimpleNamespace(path="/s/m", peer=SimpleNamespace(address=address, attributes={}, chain=()))


def authorizer(*operators: str, tls: bool = False, clock: Clock | None = None) -> Authorizer:
    return Authorizer(
        tls=tls,
        trust_domains=frozenset(),
        clock=clock or Clock(),
        statistics=RpcStatistics(),
        operators=operators,
    )


@pytest.mark.parametrize(
    ("pattern", "uri", "fits"),
    [
        ("spiffe://public/ns/ops/admin", "spiffe://public/ns/ops/admin", True),
        ("spiffe://public/ns/ops/*", "spiffe://public/ns/ops/admin", True),
        ("spiffe://*/ns/*/admin-*", "spiffe://a/ns/b/admin-1", True),
        ("*", "spiffe://a/ns/b/c", True),
        ("spiffe://public/ns/ops/*", "spiffe://public/ns/opsx/admin", False),
        ("spiffe://public/ns/ops/*", "spiffe://other/ns/ops/admin", False),
        ("spiffe://*/ns/ops/admin", "spiffe://public/ns/x/ns/ops/admin", False),
        ("spiffe://public/ns/OPS/admin", "spiffe://public/ns/ops/admin", False),
    ],
)
def test_a_star_stands_for_one_part_alone(pattern: str, uri: str, fits: bool) -> None:
    assert matches(pattern, uri) is fits


@pytest.mark.parametrize(
    "pattern", ["admin", "spiffe://public", "spiffe://public/ns/*", "spiffe://a/ns/b/c/d", "**", ""]
)
def test_a_pattern_that_names_nobody_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="--admin-identities"):
        ServeSettings(admin_identities=(pattern,))


@pytest.mark.parametrize("address", ["127.0.0.1:5", "[::1]:5", "127.9.9.9:5"])
def test_without_tls_the_machine_itself_is_let_in(address: str) -> None:
    authorizer().check_operator(call(address))


@pytest.mark.parametrize("address", ["10.0.0.7:5", "[fe80::1]:5", ""])
def test_without_tls_the_network_is_not(address: str) -> None:
    with pytest.raises(RpcError) as caught:
        authorizer("spiffe://a/ns/b/c").check_operator(call(address))
    assert caught.value.status is Status.PERMISSION_DENIED and "--admin-identities" in caught.value.message
    authorizer("*").check_operator(call(address))


def test_an_app_may_what_is_its_own_and_an_operator_anything() -> None:
    authorizer().check_app_or_operator(call("10.0.0.7:5"), "ns", "app")
    with pytest.raises(RpcError) as caught:
        authorizer().check_app_or_operator(call("127.0.0.1:5"), "", "app")
    assert caught.value.status is Status.INVALID_ARGUMENT
    with pytest.raises(RpcError) as caught:
        authorizer("*", tls=True).check_app_or_operator(call("127.0.0.1:5"), "ns", "app")
    assert caught.value.status is Status.UNAUTHENTICATED


def test_denials_are_logged_so_many_a_second_and_the_rest_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    one = authorizer(clock=clock)
    with caplog.at_level(logging.WARNING, logger="scheduler"):
        for _ in range(DENIALS_LOGGED_PER_S + 7):
            with pytest.raises(RpcError):
                one.check_operator(call("10.0.0.7:5"))
        assert len(caplog.records) == DENIALS_LOGGED_PER_S
        clock.now_s += 1
        with pytest.raises(RpcError):
            one.check(call("10.0.0.7:5"), "", "")
    last = caplog.records[-1]
    assert last.message == "denied" and len(caplog.records) == DENIALS_LOGGED_PER_S + 1
    assert last.fields["unlogged"] == 7 and last.fields["peer"] == "10.0.0.7:5"
    assert last.fields["method"] == "/s/m" and last.fields["status"] == "INVALID_ARGUMENT"
    assert one._statistics.sidecar_errors["auth_failed"] == DENIALS_LOGGED_PER_S + 8
