"""Shares of a cluster-wide limit: the division, and that the sum never exceeds the limit while members come and go."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.shares import Peer, Seat, Shares, basis_of, share


@pytest.mark.parametrize(
    ("limit", "replicas", "expected"),
    [(100, 3, [34, 33, 33]), (5, 3, [2, 2, 1]), (1, 3, [1, 1, 1]), (6, 3, [2, 2, 2]), (7, 1, [7]), (3, 0, [3])],
)
def test_division(limit: int, replicas: int, expected: list[int]) -> None:
    assert [share(limit, replicas, place) for place in range(max(1, replicas))] == expected


@given(limit=st.integers(1, 10_000), replicas=st.integers(1, 50))
def test_shares_sum_to_the_limit(limit: int, replicas: int) -> None:
    total = sum(share(limit, replicas, place) for place in range(replicas))
    assert total == max(limit, replicas)


def test_nothing_is_allowed_without_a_seat_or_before_the_others_agree() -> None:
    shares = Shares()
    assert shares.allowed("g", 10) == 0
    shares.update(7, Seat(2, 0), [Peer(basis=3, excess={})])
    assert shares.allowed("g", 10) == 0
    shares.update(7, Seat(2, 0), [Peer(basis=7, excess={"g": 2})])
    assert shares.allowed("g", 10) == 3
    shares.update(9, Seat(1, 0), [])
    assert shares.allowed("g", 10) == 10
    shares.reset()
    assert shares.allowed("g", 10) == 0


class Member:
    """One replica: what it sees of the registry lags behind, as a watch does."""

    def __init__(self, name: str, seen: int) -> None:
        self.name = name
        self.shares = Shares()
        self.in_flight = 0
        self.seen = seen

    def observe(self, history: list[dict[str, tuple[int, int, int]]], upto: int) -> None:
        self.seen = upto
        registry = history[upto]
        if self.name in registry:
            names = sorted(registry)
            peers = [
                Peer(basis, {"g": excess} if excess else {})
                for name, (basis, excess, _) in registry.items()
                if name != self.name
            ]
            joined = {name: joined for name, (_, _, joined) in registry.items()}
            self.shares.update(basis_of(joined), Seat(len(names), names.index(self.name)), peers)


@given(seed=st.integers(0, 1 << 32))
def test_the_sum_stays_within_the_limit_whatever_the_order_of_events(seed: int) -> None:
    rng = random.Random(seed)
    limit = rng.randint(4, 9)
    history: list[dict[str, tuple[int, int, int]]] = [{}]
    members: dict[str, Member] = {}
    fired = 0
    for _ in range(250):
        action = rng.choice(
            ["join", "crash", "observe", "observe", "observe", "publish", "publish", "fire", "fire", "fire", "finish"]
        )
        if action == "join" and len(members) < 4:
            name = rng.choice([one for one in "abcd" if one not in members])
            history.append({**history[-1], name: (0, 0, len(history))})
            members[name] = Member(name, len(history) - 1)
            continue
        if not members:
            continue
        member = rng.choice(list(members.values()))
        match action:
            case "crash":
                if rng.random() < 0.3:
                    del members[member.name]
                    history.append({name: value for name, value in history[-1].items() if name != member.name})
            case "observe":
                member.observe(history, rng.randint(member.seen, len(history) - 1))
            case "publish":
                excess = max(0, member.in_flight - member.shares.aim(limit))
                history.append({**history[-1], member.name: (member.shares.basis, excess, history[-1][member.name][2])})
            case "fire":
                if member.in_flight < member.shares.allowed("g", limit):
                    member.in_flight += 1
                    fired += 1
            case "finish":
                member.in_flight -= member.in_flight > 0
        assert sum(one.in_flight for one in members.values()) <= limit
    # Once everybody has seen and said everything, the whole limit is in use again.
    for _ in range(3):
        for member in members.values():
            member.in_flight = 0
            member.observe(history, len(history) - 1)
            history.append({**history[-1], member.name: (member.shares.basis, 0, history[-1][member.name][2])})
    for member in members.values():
        member.observe(history, len(history) - 1)
    if members:
        assert sum(member.shares.allowed("g", limit) for member in members.values()) == limit
