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
        theirs.send(bytes(5_000))  # more than is read at once
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


def test_who_has_little_to_read_goes_before_those_that_have_much(clock, ready) -> None:
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    ready.register(ours, selectors.EVENT_READ)
    ready.register(listener, selectors.EVENT_READ)
    caller = socket.create_connection(listener.getsockname())
    seen: list[int] = []
    for number in range(24):
        if number == 14:
            theirs.send(b"x")
        events = ready.select(None)
        clock[0] += 0.02
        if number >= 14:
            found = [key.fd for key, _ in events]
            assert listener.fileno() in found
            assert (ours.fileno() in found) == (number == 14)
            assert len(found) == 2 + (number == 14), "and one of those, by turns"
            seen += found
            if number == 14:
                ours.recv(1)
    assert len(set(seen)) == 12
    for one in (ours, theirs, listener, caller):
        one.close()
