"""A turn of the loop gets as many sockets as it has time for, and none waits for long."""

import selectors
import socket

import pytest

from scheduler.aio import turns
from scheduler.aio.turns import TurnTimer


@pytest.fixture
def clock(monkeypatch):
    """What the selector takes for the time; the test moves it."""
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def ready():
    """A selector with ten sockets that are all readable."""
    seconds: list[float] = []
    timer = TurnTimer(seconds.append)
    pairs = [socket.socketpair() for _ in range(10)]
    for ours, theirs in pairs:
        timer.register(ours, selectors.EVENT_READ)
        theirs.send(b"x")
    timer.seconds = seconds
    yield timer
    timer.close()
    for pair in pairs:
        for one in pair:
            one.close()


def test_short_turns_get_all_that_is_ready(clock, ready) -> None:
    for _ in range(3):
        assert len(ready.select(0)) == 10
        clock[0] += 0.001
    assert ready.seconds == pytest.approx([0.001, 0.001])


def test_long_turns_get_fewer_sockets_and_each_has_its_turn(clock, ready) -> None:
    for _ in range(12):
        ready.select(None)
        clock[0] += 0.02
    seen: list[int] = []
    for _ in range(5):
        events = ready.select(None)
        assert len(events) == 2
        seen += [key.fd for key, _ in events]
        clock[0] += 0.02
    assert len(set(seen)) == 10
    for _ in range(20):
        clock[0] += 0.001
        events = ready.select(None)
    assert len(events) == 10


def test_who_was_quiet_goes_before_those_that_always_have_something(clock, ready) -> None:
    ours, theirs = socket.socketpair()
    ready.register(ours, selectors.EVENT_READ)
    seen: list[int] = []
    for number in range(20):
        if number == 14:
            theirs.send(b"x")
        events = ready.select(None)
        clock[0] += 0.02
        if number >= 14:
            seen += [key.fd for key, _ in events]
            assert (ours.fileno() in [key.fd for key, _ in events]) == (number == 14)
            if number == 14:
                ours.recv(1)
    # The others have had their turns meanwhile, each its own.
    assert len(set(seen)) == 11
    ours.close()
    theirs.close()


def test_those_that_always_have_something_leave_some_turns_to_other_work(clock, ready) -> None:
    counts: list[int] = []
    for _ in range(24):
        counts.append(len(ready.select(0)))  # the loop has more to do
        clock[0] += 0.02
    assert counts[-6:] in ([2, 0, 0] * 2, [0, 2, 0] * 2, [0, 0, 2] * 2)
    assert len(ready.select(None)) == 2, "nothing else to do: no turn is left out"
