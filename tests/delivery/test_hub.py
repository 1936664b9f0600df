"""The hub alone: order, limits, what a broken stream gives back, and that what is gone is let go."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.aio.clock import SystemClock
from scheduler.core.lifecycle import DEFAULT_POLICY, Job, State
from scheduler.core.shares import Seat, Shares
from scheduler.delivery.hub import Hub
from scheduler.delivery.routes import Limit, Stream
from scheduler.metrics import DeliveryStatistics

KEY = "actorreminder||ns||kind"


class Outlet:
    """A connection that takes everything."""

    send_buffered = 0

    def __init__(self) -> None:
        self.names: list[str] = []

    def send_framed(self, chunk: bytes) -> None:
        while chunk:
            size = int.from_bytes(chunk[1:5])
            self.names.append(pb.WatchJobsResponse.FromString(chunk[5 : 5 + size]).name)
            chunk = chunk[5 + size :]


class Partition:
    epoch = 1
    in_flight = 0
    firing_ns = 0
    suspended = False


class Bench:
    """A hub with its surroundings played."""

    def __init__(self, make_hub: Callable[..., Hub] = Hub) -> None:
        self.shares = Shares()
        self.shares.update(1, Seat(1, 0), [])
        self.settled: list[Job] = []
        self.looks = 0
        self.statistics = DeliveryStatistics()
        self.hub = make_hub(
            replica="r",
            settle=self._settle,
            may_fire=lambda: True,
            clock=SystemClock(),
            statistics=self.statistics,
            window=1_000,
            shares=self.shares,
            excess_shrunk=self._look,
        )
        self.partition = Partition()

    def _settle(self, job: Job, succeeded: bool) -> None:
        job.state = State.SETTLED
        self.settled.append(job)

    def _look(self) -> None:
        self.looks += 1

    def job(self, name: str, key: str | None = None, target: str = KEY, due_ns: int = 1) -> Job:
        job = Job(
            key=name.encode(), generation=1, revision=1, trigger=pb.WatchJobsResponse(name=name).SerializeToString(), schedule=None,
            repeats=None, first_ns=due_ns, expires_ns=None, policy=DEFAULT_POLICY,
        )  # fmt: skip
        job.target, job.partition, job.concurrency_key = self.hub.target(target), self.partition, key
        return job

    def offer(self, name: str, key: str | None = None, target: str = KEY) -> Job:
        job = self.job(name, key, target)
        self.hub.offer(job, 2)
        return job

    def attach(self, *limits: tuple[str | None, int], target: str = KEY) -> Stream:
        return self.hub.attach(Outlet(), [target], [Limit(target, name, count) for name, count in limits])

    def sent(self, stream: Stream) -> list[str]:
        self.hub.flush()
        return stream.outlet.names

    def answer(self, stream: Stream, name: str) -> None:
        number = next(number for number, job in stream.in_flight.items() if job.key == name.encode())
        assert self.hub.acknowledge(stream, number, True)


@pytest.fixture
def bench() -> Iterator[Bench]:
    loop = asyncio.new_event_loop()

    async def make() -> Bench:
        return Bench()

    one = loop.run_until_complete(make())
    asyncio._set_running_loop(loop)
    yield one
    asyncio._set_running_loop(None)
    loop.close()


def test_without_limits_all_are_sent(bench: Bench) -> None:
    stream = bench.attach()
    for number in range(10):
        bench.offer(f"j{number}")
    assert bench.sent(stream) == [f"j{number}" for number in range(10)]
    assert bench.hub.gates() == []


def test_a_limit_lets_the_next_go_when_one_ends_in_order(bench: Bench) -> None:
    stream = bench.attach((None, 2))
    for number in range(5):
        bench.offer(f"j{number}")
    assert bench.sent(stream) == ["j0", "j1"]
    bench.answer(stream, "j1")
    bench.offer("late")
    assert bench.sent(stream) == ["j0", "j1", "j2"]
    [(gate, pending)] = bench.hub.gates()
    assert (gate.label, gate.in_flight, pending, gate.throttled) == ("kind", 2, 3, 4)


def test_a_newcomer_never_overtakes_those_that_wait(bench: Bench) -> None:
    stream = bench.attach((None, 1))
    bench.offer("a")
    bench.offer("b")
    bench.hub.acknowledge(stream, 1, True)
    bench.offer("c")
    bench.answer(stream, "b")
    assert bench.sent(stream) == ["a", "b", "c"]


def test_named_limits_are_independent_and_skip_nobody_else(bench: Bench) -> None:
    stream = bench.attach((None, 3), ("x", 1), ("y", 1))
    for name, key in [("x1", "x"), ("x2", "x"), ("y1", "y"), ("y2", "y"), ("free", "z"), ("none", None)]:
        bench.offer(name, key)
    assert bench.sent(stream) == ["x1", "y1", "free"]
    bench.answer(stream, "free")
    assert bench.sent(stream)[3:] == ["none"]
    bench.answer(stream, "y1")
    assert bench.sent(stream)[4:] == ["y2"]
    bench.answer(stream, "x1")
    assert bench.sent(stream)[5:] == ["x2"]
    assert {gate.label: gate.in_flight for gate, _ in bench.hub.gates()} == {"kind": 3, "kind:x": 1, "kind:y": 1}


def test_the_oldest_waiting_goes_first_across_keys(bench: Bench) -> None:
    stream = bench.attach((None, 1), ("x", 1))
    bench.offer("first")
    bench.offer("x1", "x")
    bench.offer("plain")
    bench.offer("x2", "x")
    for expected in ["x1", "plain", "x2"]:
        bench.hub.acknowledge(stream, stream.last_id, True)
        assert bench.sent(stream)[-1] == expected


def test_the_most_recent_declaration_wins_and_the_last_stream_takes_the_gate_along(bench: Bench) -> None:
    old = bench.attach((None, 1))
    for number in range(6):
        bench.offer(f"j{number}")
    new = bench.attach((None, 3))
    assert len(bench.sent(old)) + len(bench.sent(new)) == 3
    plain = bench.attach()
    bench.hub.detach(new)
    assert sum(gate.in_flight for gate, _ in bench.hub.gates()) == max(1, len(old.in_flight) + len(plain.in_flight))
    bench.hub.detach(old)
    assert bench.hub.gates() == []
    assert sorted(job.key for job in plain.in_flight.values()) == [f"j{number}".encode() for number in range(6)]


def test_a_gate_made_late_counts_what_is_in_flight_already(bench: Bench) -> None:
    first = bench.attach()
    bench.offer("a")
    bench.offer("b")
    bench.attach((None, 2))
    bench.offer("c")
    assert [(gate.in_flight, pending) for gate, pending in bench.hub.gates()] == [(2, 1)]
    bench.answer(first, "a")
    assert [(gate.in_flight, pending) for gate, pending in bench.hub.gates()] == [(2, 0)]


def test_a_broken_stream_frees_its_places_and_its_jobs_go_first(bench: Bench) -> None:
    doomed = bench.attach((None, 2))
    for name in "abcd":
        bench.offer(name)
    other = bench.attach((None, 2))
    bench.hub.detach(doomed)
    assert bench.sent(other) == ["a", "b"]
    assert [(gate.in_flight, pending) for gate, pending in bench.hub.gates()] == [(2, 2)]


def test_a_failed_result_frees_the_place_too(bench: Bench) -> None:
    stream = bench.attach((None, 1))
    bench.offer("a")
    bench.offer("b")
    bench.hub.acknowledge(stream, 1, False)
    assert bench.sent(stream) == ["a", "b"]


def test_a_smaller_share_holds_back_and_tells_when_it_is_reached(bench: Bench) -> None:
    stream = bench.attach((None, 4))
    for number in range(6):
        bench.offer(f"j{number}")
    bench.shares.update(2, Seat(2, 0), [])
    bench.hub.apply_shares()
    assert bench.hub.excess() == {KEY: 2}
    bench.answer(stream, "j0")
    assert (bench.looks, bench.hub.excess(), len(bench.sent(stream))) == (1, {KEY: 1}, 4)
    bench.answer(stream, "j1")
    bench.answer(stream, "j2")
    assert (bench.hub.excess(), bench.sent(stream)[4:]) == ({}, ["j4"])
    bench.shares.update(1, Seat(1, 0), [])
    bench.hub.apply_shares()
    assert bench.sent(stream)[5:] == ["j5"]


def test_limits_of_one_actor_type_leave_others_alone(bench: Bench) -> None:
    bench.attach((None, 1))
    other = bench.attach(target="actorreminder||ns||other")
    for number in range(5):
        bench.offer(f"j{number}", target="actorreminder||ns||other")
    assert len(bench.sent(other)) == 5


@pytest.mark.parametrize("limits", [(), ((None, 1), ("x", 1))])
def test_what_is_gone_is_let_go_even_if_nobody_ever_comes(
    bench: Bench, limits: tuple[tuple[str | None, int], ...]
) -> None:
    if limits:
        bench.attach(*limits)
        bench.offer("blocks")
    kept = [bench.offer("kept", "x")]
    for number in range(1_000):
        job = bench.offer(f"j{number}", "x" if number % 2 else None)
        job.state = State.GONE
        bench.hub.withdraw(job)
    target = bench.hub.target(KEY)
    assert len(target.waiting) < 200
    assert [count for _, count in bench.hub.waiting()] == [1]
    stream = bench.attach(*((None, 9), ("x", 9)) if limits else ())
    assert stream.in_flight or kept[0].state is State.IN_FLIGHT
    assert sum(count for _, count in bench.hub.waiting()) == 0


def test_a_stream_that_declares_a_limit_twice_gives_back_all_when_it_ends(bench: Bench) -> None:
    """Found by the fuzzer: its end failed half-way, and what it had in flight was never sent again. The later declaration holds."""
    stream = bench.attach((None, 1), (None, 3), ("k", 5), ("k", 5))
    for number in range(4):
        bench.offer(f"j{number}", "k")
    assert bench.sent(stream) == ["j0", "j1", "j2"]
    bench.hub.detach(stream)
    assert bench.hub.gates() == []
    assert bench.sent(bench.attach()) == ["j0", "j1", "j2", "j3"]


def test_what_is_not_answered_in_time_counts_as_failed_once(bench: Bench) -> None:
    stream = bench.attach((None, 2))
    old = bench.offer("old")
    sent = bench.hub.sent_so_far()
    bench.offer("new")
    waiting = bench.offer("waiting")
    old.sent_ns = 1_000
    assert bench.hub.oldest_in_flight_s() > 1
    bench.hub.give_up(sent)
    assert bench.settled == [old]
    assert bench.statistics.unanswered == 1
    assert waiting.state is State.IN_FLIGHT, "its place is free"
    assert not bench.hub.acknowledge(stream, 1, True), "the late answer is unknown"
    assert bench.settled == [old]
    bench.hub.detach(stream)
    assert bench.hub.oldest_in_flight_s() == 0


def test_what_could_leave_is_told_from_what_waits_for_a_stream(bench: Bench) -> None:
    assert bench.hub.oldest_waiting_ns(movable=False) is None
    bench.offer("waits")
    assert bench.hub.oldest_waiting_ns(movable=False) == 1
    assert bench.hub.oldest_waiting_ns(movable=True) is None, "no stream is there to take it"
    bench.attach((None, 1))
    assert bench.hub.oldest_waiting_ns(movable=False) is None
    bench.offer("held back by the gate")
    assert bench.hub.oldest_waiting_ns(movable=True) is None


def test_many_limits_at_once_cost_one_look_at_the_queue(bench: Bench) -> None:
    """Each limit once made the queue anew: a stream with a thousand of them stopped a replica for seconds where many jobs waited."""
    jobs = [bench.offer(f"j{number}", f"k{number % 1_000}") for number in range(20_000)]
    started = time.process_time()
    stream = bench.attach(*((f"k{number}", 1) for number in range(1_000)))
    assert len(bench.sent(stream)) == 512, "a slice"
    bench.hub.detach(stream)
    assert {job.state for job in jobs} == {State.WAITING}
    assert time.process_time() - started < 1.5
    assert bench.hub.gates() == []


S = 1_000_000_000


def late(bench: Bench) -> dict[str, int]:
    return {reason: count for reason, count in bench.statistics.late.items() if count}


@pytest.mark.parametrize(
    ("reason", "prepare"),
    [
        ("behind", lambda _bench, _job: None),
        ("take_over", lambda bench, _job: setattr(bench.partition, "firing_ns", 4 * S)),
        ("blocked", lambda bench, _job: bench.hub.resume()),
        ("previous", lambda _bench, job: setattr(job, "sent_ns", 4 * S)),
    ],
)
def test_a_late_first_delivery_is_counted_by_what_held_it_up(bench: Bench, reason: str, prepare) -> None:
    stream = bench.attach()
    stream.targets[0].attended_ns = 0
    job = bench.job("j", due_ns=3 * S)
    prepare(bench, job)
    bench.hub.offer(job, 4 * S + 1)
    assert late(bench) == {reason: 1}


def test_a_job_that_waits_for_a_stream_or_for_room_is_late_for_that(bench: Bench) -> None:
    bench.offer("nobody there")
    first = bench.attach((None, 1))
    assert late(bench) == {"no_stream": 1}
    first.targets[0].attended_ns = 0
    bench.offer("behind the limit")
    bench.answer(first, "nobody there")
    assert late(bench) == {"no_stream": 1, "limit": 1}
    bench.hub.detach(first)
    full = bench.attach(target="app||ns||a")
    full.targets[0].attended_ns = 0
    full.window = 1
    for name in ("one", "two"):
        bench.offer(name, target="app||ns||a")
    bench.answer(full, "one")
    assert late(bench) == {"no_stream": 1, "limit": 1, "streams_full": 1}


def test_what_is_in_time_or_sent_again_is_not_late(bench: Bench) -> None:
    bench.attach()
    bench.hub.offer(bench.job("in time", due_ns=3 * S), 4 * S)
    again = bench.job("again", due_ns=3 * S)
    again.attempts = 1
    bench.hub.offer(again, 9 * S)
    assert late(bench) == {}


def test_the_time_of_streams_whose_readers_do_not_keep_up_is_counted_once(bench: Bench) -> None:
    class Clock(SystemClock):
        times = iter([10.0, 12.0, 13.0, 20.0])

        def boottime_s(self) -> float:
            return next(self.times)

    bench.hub._clock = Clock()
    stream = bench.attach()
    stream.outlet.send_buffered = 2 << 20
    for name in ("first", "second"):
        bench.offer(name)
        bench.hub.flush()
    assert stream.congested and bench.hub.stream_blocked_s() == 2.0
    stream.outlet.send_buffered = 0
    bench.hub.writable(stream)
    assert bench.statistics.stream_blocked_s == 3.0
    bench.hub.detach(stream)
    assert bench.hub.stream_blocked_s() == 3.0


def test_nothing_of_a_suspended_partition_is_sent_until_it_is_offered_again(bench: Bench) -> None:
    stream = bench.attach()
    in_flight = bench.offer("in flight")
    bench.hub.detach(stream)
    waiting = bench.offer("waiting")
    stream = bench.attach()
    assert bench.sent(stream) == ["in flight", "waiting"]
    bench.partition.suspended = True
    bench.hub.detach(stream)
    held = bench.job("held")
    held.state = State.WAITING
    held.target.waiting.append(held)
    bench.hub.hold([held])
    assert {job.state for job in (in_flight, waiting, held)} == {State.ARMED}
    stream = bench.attach()
    assert bench.sent(stream) == []
    bench.partition.suspended = False
    for job in (in_flight, waiting, held):
        bench.hub.offer(job, 2)
    assert bench.sent(stream) == ["in flight", "waiting", "held"]
