"""Keys of jobs: different jobs never share one, and no prefix reaches into another app, actor type or namespace (T3, T4, F51)."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.core import names
from scheduler.core.errors import InvalidName
from scheduler.store.keys import Keys, partition_of, range_end

# Short texts of the characters that make trouble, so that collisions would be found; and any text.
ODD = st.one_of(st.text(alphabet="a|%7C", max_size=6), st.text(max_size=8))
SEGMENT = ODD.filter(bool)
TARGETS = st.one_of(
    st.builds(names.app_target, SEGMENT, SEGMENT), st.builds(names.actor_target, SEGMENT, SEGMENT, SEGMENT)
)


def accepted(text: str) -> bool:
    """Whether a name may hold it."""
    try:
        names.check_name(f"app||{text}")
    except InvalidName:
        return False
    return True


NAMES = st.one_of(st.text(alphabet="a !|%", max_size=4), ODD).filter(accepted)


@settings(max_examples=200)
@given(TARGETS, ODD, TARGETS, ODD)
def test_different_jobs_have_different_keys(one: names.Target, name: str, other: names.Target, other_name: str) -> None:
    same = (one, name) == (other, other_name)
    assert (names.storage_key(one, name) == names.storage_key(other, other_name)) == same
    assert (names.route_key(one) == names.route_key(other)) == (one[:3] == other[:3])


@settings(max_examples=200)
@given(TARGETS, TARGETS, ODD)
def test_no_prefix_reaches_anybody_else(one: names.Target, other: names.Target, name: str) -> None:
    """Of all the prefixes that are ever listed or deleted, none matches another target's job."""
    key = names.storage_key(other, name)
    assert key.startswith(names.storage_prefix(one)) == (one == other)
    whole_type = one._replace(actor_id="") if one.is_actor else one
    assert key.startswith(names.storage_prefix(whole_type)) == (one[:3] == other[:3])
    if one.is_actor:
        assert key.startswith(names.actor_id_prefix(one)) == (
            one[:3] == other[:3] and (other.actor_id or "").startswith(one.actor_id or "")
        )
    mine = any(key.startswith(prefix) for prefix in names.namespace_prefixes(one.namespace))
    assert mine == (one.namespace == other.namespace)


@given(ODD)
def test_escaping_is_undone(segment: str) -> None:
    assert names.unescape(names._escape(segment)) == segment


@given(TARGETS, ODD)
def test_etcds_range_of_a_prefix_holds_its_keys_alone(target: names.Target, name: str) -> None:
    keys, prefix, key = Keys(), names.storage_prefix(target), names.storage_key(target, name)
    partition = partition_of(key, 128)
    start = keys.job(partition, prefix)
    assert start <= keys.job(partition, key) < range_end(start)
    assert not start <= keys.job(partition, prefix[:-1] + "}") < range_end(start)
    assert not start <= keys.job((partition + 1) % 128, key) < range_end(start)


@given(TARGETS, NAMES, NAMES)
def test_a_job_and_what_is_run_now_are_one_range_that_holds_nobody_else(
    target: names.Target, name: str, other: str
) -> None:
    assume(all(accepted(part) for part in target if part))
    key, extra = names.storage_key(target, name), names.run_now_key(target, name, "request1")
    assert names.job_key(extra) == key == names.job_key(key)
    assert names.is_run_now(extra) and not names.is_run_now(key)
    start = Keys().job(7, key)
    end = names.run_now_end(start)
    assert start <= Keys().job(7, extra) < end
    assert (start <= Keys().job(7, names.storage_key(target, other)) < end) == (name == other)
    assert (start <= Keys().job(7, names.run_now_key(target, other, "request1")) < end) == (name == other)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "cannot be empty"),
        ("x" * 513, "at most 512"),
        ("é" * 257, "at most 512"),
        ("a/b", "must not contain '/'"),
        ("a\\b", "must not contain '/'"),
        ("a#b", "must not contain '/'"),
        ("a?b", "must not contain '/'"),
        ("a\0b", "control characters"),
        ("a\x1fb", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\x9bb", "control characters"),
        (".", "path traversal"),
        ("..", "path traversal"),
    ],
)
def test_names_that_are_refused(name: str, problem: str) -> None:
    with pytest.raises(InvalidName, match=problem):
        names.check_name(name)


@pytest.mark.parametrize(
    "name", ["x", "x" * 512, "UPPER", "a b", "a|b", "||", "a||", "a@b", "a:b", "a_b", "...", "é", "日本", "\U0001f600"]
)
def test_names_that_are_accepted(name: str) -> None:
    names.check_name(name)
