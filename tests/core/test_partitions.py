"""The assignment of partitions: balanced, the same everywhere, moving little."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.names import actor_target, app_target, route_key, storage_key, storage_prefix
from scheduler.core.partitions import assign
from scheduler.core.tenure import Tenure

MEMBERS = st.lists(st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True), min_size=1, max_size=7, unique=True)


@given(MEMBERS)
def test_everything_is_assigned_and_nobody_has_more_than_one_above_the_mean(members: list[str]) -> None:
    assignment = assign(members, 128)
    assert set(assignment) == set(range(128))
    loads = [list(assignment.values()).count(member) for member in members]
    assert max(loads) <= -(-128 // len(members))


@given(MEMBERS)
def test_the_order_of_members_does_not_matter(members: list[str]) -> None:
    assert assign(members, 64) == assign(list(reversed(members)), 64)


@given(MEMBERS)
def test_a_join_moves_little_more_than_the_newcomers_share(members: list[str]) -> None:
    before = assign(members, 128)
    after = assign([*members, "a-newcomer-by-name"], 128)
    moved = sum(before[partition] != after[partition] for partition in range(128))
    assert moved <= 2 * (-(-128 // (len(members) + 1)))


@given(st.lists(st.text(max_size=6), min_size=3, max_size=3), st.lists(st.text(max_size=6), min_size=3, max_size=3))
def test_no_prefix_reaches_another_apps_key(one: list[str], other: list[str]) -> None:
    """W47, W48: keys of different (namespace, app) never share a prefix that an operation builds."""
    if one[:2] != other[:2]:
        key = storage_key(app_target(one[0], one[1]), one[2])
        assert not key.startswith(storage_prefix(app_target(other[0], other[1])))


def test_reminders_route_by_type() -> None:
    assert route_key(actor_target("ns", "a|b", "id")) == "actorreminder||ns||a%7Cb"


def test_trust_in_a_lease_ends_before_the_lease() -> None:
    tenure = Tenure(margin_s=1.0)
    assert not tenure.may_act(0.0)
    tenure.renew(100.0, 5.0, 100.1)
    tenure.renew(99.0, 5.0, 100.2)
    assert tenure.may_act(103.9) and not tenure.may_act(104.0)
    tenure.end()
    assert not tenure.may_act(101.0)


def test_trust_that_had_lapsed_comes_back_with_a_confirmation_of_the_last_lapse() -> None:
    tenure = Tenure(margin_s=1.0)
    tenure.renew(100.0, 5.0, 100.1)
    tenure.renew(104.0, 5.0, 104.1)
    assert tenure.doubted and not tenure.may_act(104.2)
    tenure.renew(108.5, 5.0, 108.6)
    tenure.confirm(1)
    assert tenure.lapses == 2 and not tenure.may_act(108.7)
    tenure.confirm(2)
    assert tenure.may_act(108.7) and not tenure.doubted
    tenure.renew(109.0, 5.0, 109.1)
    assert tenure.may_act(112.9)
    tenure.end()
    tenure.renew(120.0, 5.0, 120.1)
    assert tenure.may_act(120.2)
