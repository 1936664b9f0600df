"""Who a certificate says its owner is (reliability.md 5.2), and whether it still leads to a trust anchor."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from scheduler.identity.certificates import identity_of, leads_to, parse_anchors
from tests.support.certificates import Authority

GOOD = "spiffe://public/ns/default/app"


def der(cert_file: Path) -> bytes:
    return x509.load_pem_x509_certificate(cert_file.read_bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("uris", "accepted"),
    [
        ([GOOD], True),
        ([GOOD + "/extra"], True),
        ([GOOD, "spiffe://public/ns/default/other"], False),
        ([], False),
        (["https://public/ns/default/app"], False),
        (["spiffe://elsewhere/ns/default/app"], False),
        (["spiffe://public/ns/a/../b/app"], False),
        ([GOOD + "/"], False),
        (["spiffe://public/ns//app"], False),
        (["spiffe://public/ns/default/a%70p"], False),
        (["spiffe://user@public/ns/default/app"], False),
        (["spiffe://public:1/ns/default/app"], False),
        ([GOOD + "?q"], False),
        (["spiffe://public/app"], False),
        (["spiffe://Public/ns/default/app"], False),
        ([GOOD + "#f"], False),
        (["spiffe://public/ns/default/" + "a" * 2_048], False),
    ],
)
def test_exactly_one_well_formed_identity_is_accepted(tmp_path: Path, uris: list[str], accepted: bool) -> None:
    cert_file, _ = Authority(tmp_path).leaf("leaf", uris)
    identity = identity_of(der(cert_file), frozenset({"public"}))
    assert (identity is not None) == accepted
    if identity is not None:
        assert (identity.namespace, identity.app_id) == ("default", "app")


def test_a_ca_and_a_servers_certificate_are_no_clients(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    assert identity_of(der(authority.leaf("ca-leaf", [GOOD], ca=True)[0]), frozenset({"public"})) is None
    assert identity_of(der(authority.leaf("server", [GOOD], client=False)[0]), frozenset({"public"})) is None


def test_a_chain_leads_to_an_anchor_until_the_anchor_goes_or_time_is_up(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    leaf = der(authority.leaf("leaf", [GOOD])[0])
    anchors, others = parse_anchors(authority.ca_file.read_bytes()), parse_anchors(other.ca_file.read_bytes())
    now = datetime.now(UTC)
    assert leads_to([leaf], anchors, now)
    assert leads_to([leaf], others + anchors, now)
    assert not leads_to([leaf], others, now)
    assert not leads_to([leaf], (), now)
    assert not leads_to([leaf], anchors, now + timedelta(days=3))
    assert not leads_to([b"garbage"], anchors, now)


def test_intermediates_count_in_any_order(tmp_path: Path) -> None:
    root, intermediate = Authority(tmp_path / "root"), Authority(tmp_path / "intermediate")
    crossed = root.sign_authority(intermediate)
    leaf = der(intermediate.leaf("leaf", [GOOD])[0])
    anchors, now = parse_anchors(root.ca_file.read_bytes()), datetime.now(UTC)
    stranger = der(Authority(tmp_path / "stranger").leaf("x", [GOOD])[0])
    assert leads_to([leaf, crossed], anchors, now)
    assert leads_to([leaf, stranger, crossed], anchors, now)
    assert not leads_to([leaf], anchors, now)
    assert not leads_to([leaf, stranger], anchors, now)
