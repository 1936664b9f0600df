"""The hub: due jobs on one side, connected streams on the other (design: delivery; scheduler-service.md 5.3 to 5.5).

It owns the targets, their waiting jobs, and every stream's triggers in flight; all of it is synchronous state of one event
loop. It knows neither timers nor etcd: the engine offers due jobs and hears of each result.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from weakref import WeakValueDictionary

from scheduler.aio.clock import Clock
from scheduler.core import names
from scheduler.core.lifecycle import Job, State
from scheduler.core.shares import Shares
from scheduler.delivery.gates import Gate
from scheduler.delivery.queues import Lanes
from scheduler.delivery.routes import Limit, Outlet, Stream, Target
from scheduler.delivery.wire import trigger_encoder
from scheduler.metrics import DeliveryStatistics

_ARMED, _WAITING, _IN_FLIGHT = State.ARMED, State.WAITING, State.IN_FLIGHT
# How many waiting jobs one call sends before other work of the loop gets its turn.
_FEED_SLICE = 512
# A stream with this much unsent output takes no further trigger until it has drained: a slow reader holds up its own stream.
_OUTPUT_MAX_BYTES = 1 << 20
# A first delivery that leaves later than this is late, and counted by what held it up.
_LATE_NS = 1_000_000_000
# A queue with this many jobs that are gone, and more of them than of others, is made anew without them.
_GONE_MAX = 64


class Hub:
    """Routes due jobs to streams."""

    def __init__(
        self,
        *,
        replica: str,
        settle: Callable[[Job, bool], None],
        may_fire: Callable[[], bool],
        clock: Clock,
        statistics: DeliveryStatistics,
        window: int,
        shares: Shares,
        excess_shrunk: Callable[[], None],
    ) -> None:
        """`settle(job, succeeded)` hears each result; `may_fire()` is asked before each batch; `window`: triggers in flight per stream.

        `shares` is the cluster's, which calls `apply_shares` after each change; `excess_shrunk()` asks it to look at `excess` again.
        """
        self._encode = trigger_encoder(replica)
        self._settle = settle
        self._may_fire = may_fire
        self._clock = clock
        self._statistics = statistics
        self._window = window
        # Weak: a target lives as long as a job or a stream refers to it.
        self._targets: WeakValueDictionary[str, Target] = WeakValueDictionary()
        self._streams: set[Stream] = set()
        self._dirty: list[Stream] = []
        self._flush_scheduled = False
        self._shares = shares
        self._gates: dict[str, tuple[Gate, Target]] = {}
        self._excess_shrunk = excess_shrunk
        # Some gate exceeded its share when `excess` was asked last.
        self._exceeding = False
        # When firing was allowed again after it had been blocked.
        self._resumed_ns = 0

    # The engine's side

    def target(self, key: str) -> Target:
        """The target of that key; whoever routes to it keeps it."""
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = Target(key, self._statistics.namespace(names.namespace_of(key)))
        return target

    def offer(self, job: Job, now_ns: int) -> None:
        """Send a due job to a stream of its target, or let it wait behind those that wait already. The caller has asked `may_fire`."""
        target: Target = job.target
        if not target.waiting and target.lanes is None:
            stream = target.pick()
            if stream is not None:
                self._send(stream, job, now_ns)
                return
        job.state = _WAITING
        target.waiting.append(job)
        if not target.streams:
            self._statistics.undeliverable(target.is_actor)
        elif target.lanes is not None:
            self._feed(target)
            if job.state is _WAITING:
                target.lanes.refused(job)

    def withdraw(self, job: Job) -> None:
        """A waiting job is GONE now: its place in the queue stays until it comes up, but not where many are."""
        queue = job.target.waiting
        queue.gone += 1
        if queue.gone > _GONE_MAX and queue.gone * 2 > len(queue):
            job.target.requeue()

    def hold(self, jobs: list[Job]) -> None:
        """These jobs, which waited, are ARMED again and wait no longer: their partition is suspended. They will be offered anew."""
        for job in jobs:
            job.state = _ARMED
        for target in {job.target for job in jobs}:
            target.requeue()

    def resume(self) -> None:
        """Firing is allowed again: whoever waits for a stream that has room goes on."""
        self._resumed_ns = self._clock.wall_ns()
        for target in list(self._targets.values()):
            if target.waiting:
                self._feed(target)

    def _send(self, stream: Stream, job: Job, now_ns: int) -> None:
        if not job.attempts:
            late_ns = now_ns - job.fire_ns
            job.target.lateness.observe(late_ns * 1e-9)
            if late_ns > _LATE_NS:
                self._statistics.late[self._held_up_by(job)] += 1
        else:
            self._statistics.repeated["failed"] += 1
        stream.last_id = delivery_id = stream.last_id + 1
        stream.in_flight[delivery_id] = job
        job.state = _IN_FLIGHT
        job.sent_ns = now_ns
        job.partition.in_flight += 1
        framed = self._encode(job, delivery_id)
        if not stream.output:
            self._dirty.append(stream)
            if not self._flush_scheduled:
                self._flush_scheduled = True
                asyncio.get_running_loop().call_soon(self.flush)
        stream.output.append(framed)
        stream.output_bytes += len(framed)
        if stream.output_bytes > _OUTPUT_MAX_BYTES:
            stream.congested = True
        self._statistics.sent += 1

    def _held_up_by(self, job: Job) -> str:
        """Why a job leaves late (metrics.LATE_REASONS): the first of these that lasted beyond its due time."""
        target, due_ns = job.target, job.fire_ns
        if job.partition.firing_ns > due_ns:
            return "take_over"
        if self._resumed_ns > due_ns:
            return "blocked"
        if target.attended_ns > due_ns:
            return "no_stream"
        # Settled after the next one was due.
        if job.sent_ns > due_ns:
            return "previous"
        if job.state is _WAITING:
            return "streams_full" if target.lanes is None else "limit"
        return "behind"

    def flush(self) -> None:
        """Hand each stream's output of this turn to its connection, in one piece."""
        self._flush_scheduled = False
        dirty, self._dirty = self._dirty, []
        for stream in dirty:
            output, stream.output, stream.output_bytes = stream.output, [], 0
            if output:
                stream.outlet.send_framed(b"".join(output))
                stream.congested = stream.outlet.send_buffered > _OUTPUT_MAX_BYTES
                if stream.congested and stream.blocked_s is None:
                    stream.blocked_s = self._clock.boottime_s()

    def _feed(self, target: Target) -> None:
        """Send what waits for a target, oldest first, as far as streams have room; long queues go in slices."""
        if not target.waiting or not self._may_fire():
            return
        now_ns = self._clock.wall_ns()
        for _ in range(_FEED_SLICE):
            waiting = target.waiting
            job = waiting.head()
            if job is None:
                return
            stream = target.pick()
            if stream is None:
                return
            waiting.take()
            self._send(stream, job, now_ns)
        if not target.feeding:
            target.feeding = True
            asyncio.get_running_loop().call_soon(self._feed_on, target)

    def _feed_on(self, target: Target) -> None:
        target.feeding = False
        self._feed(target)

    # The streams' side

    def attach(self, outlet: Outlet, target_keys: Sequence[str], limits: Iterable[Limit] = ()) -> Stream:
        """A stream has connected: it takes triggers of these targets from now on, what waits first; its limits hold until it has gone."""
        targets = tuple(self.target(key) for key in dict.fromkeys(target_keys))
        stream = Stream(outlet, targets, self._window)
        self._streams.add(stream)
        self._statistics.streams_opened += 1
        now_ns = self._clock.wall_ns()
        for target in targets:
            if not target.streams:
                target.attended_ns = now_ns
            target.streams.append(stream)
        limited = self._declare(stream, limits)
        for target in dict.fromkeys((*targets, *limited)):
            self._feed_gated(target)
        return stream

    def _declare(self, stream: Stream, limits: Iterable[Limit]) -> set[Target]:
        """The stream's limits, of those targets, hold from now on. A queue is made anew once, however many there are."""
        affected: set[Target] = set()
        changed: set[Target] = set()
        for limit in limits:
            gate = Gate(limit.target_key, limit.name)
            gate, target = self._gates.setdefault(gate.key, (gate, self.target(limit.target_key)))
            gate.declare(stream, limit.max_concurrent)
            stream.gates[gate.key] = None
            target.gates[gate.key] = gate
            affected.add(target)
            if target.lanes is None or gate.name not in target.lanes.gates:
                changed.add(target)
            gate.room = self._shares.allowed(gate.key, gate.limit)
        for target in changed:
            target.requeue()
        return affected

    def _withdraw_limits(self, stream: Stream) -> set[Target]:
        """The stream's declarations end; what waits for these targets may go on."""
        affected: set[Target] = set()
        changed: set[Target] = set()
        for key in stream.gates:
            gate, target = self._gates[key]
            affected.add(target)
            if gate.withdraw(stream):
                gate.room = self._shares.allowed(key, gate.limit)
            else:
                del self._gates[key], target.gates[key]
                changed.add(target)
        stream.gates.clear()
        for target in changed:
            target.requeue()
        return affected

    def apply_shares(self) -> None:
        """`shares` has been updated: gates have more room, or less."""
        for gate, target in list(self._gates.values()):
            gate.room = self._shares.allowed(gate.key, gate.limit)
            self._feed_gated(target)

    def _feed_gated(self, target: Target) -> None:
        if target.lanes is not None:
            target.lanes.widen()
        self._feed(target)

    def excess(self) -> dict[str, int]:
        """By how much gates exceed this replica's share among the members as they are now: what the others must leave free meanwhile."""
        over = ((key, gate.in_flight - self._shares.aim(gate.limit)) for key, (gate, _) in self._gates.items())
        excess = {key: count for key, count in over if count > 0}
        self._exceeding = bool(excess)
        return excess

    def detach(self, stream: Stream) -> None:
        """A stream is gone: what it had in flight goes back at once, each trigger exactly once, to another stream or to wait."""
        if stream not in self._streams:
            return
        self._streams.discard(stream)
        self._unblocked(stream)
        for target in stream.targets:
            target.streams.remove(stream)
        in_flight, stream.in_flight, stream.output = stream.in_flight, {}, []
        touched: dict[Target, list[Job]] = {}
        for job in in_flight.values():
            job.partition.in_flight -= 1
            target = job.target
            if target.lanes is not None:
                self._release(target.lanes, job)
            if job.state is _IN_FLIGHT and job.partition.suspended:
                job.state = _ARMED
                self._statistics.repeated["stream_ended"] += 1
            elif job.state is _IN_FLIGHT:
                job.state = _WAITING
                touched.setdefault(target, []).append(job)
                if not target.streams:
                    self._statistics.undeliverable(target.is_actor)
        limited = self._withdraw_limits(stream)
        self._statistics.repeated["stream_ended"] += sum(map(len, touched.values()))
        for target, jobs in touched.items():
            target.waiting.extendleft(reversed(jobs))
        for target in {**touched, **dict.fromkeys(limited)}:
            self._feed_gated(target)

    def acknowledge(self, stream: Stream, delivery_id: int, succeeded: bool) -> bool:  # noqa: FBT001 - the wire's own two answers
        """A result came in. False: this stream has no such trigger in flight (unknown, repeated or stale), which harms nothing."""
        job = stream.in_flight.pop(delivery_id, None)
        if job is None:
            return False
        job.partition.in_flight -= 1
        target: Target = job.target
        if target.lanes is not None:
            self._release(target.lanes, job)
        if job.state is _IN_FLIGHT:
            self._settle(job, succeeded)
        if target.waiting:
            self._feed(target)
        for other in stream.targets:
            if other.waiting and other is not target:
                self._feed(other)
        return True

    def sent_so_far(self) -> dict[Stream, int]:
        """How far each stream has got: what `give_up` takes later."""
        return {stream: stream.last_id for stream in self._streams}

    def give_up(self, sent: Mapping[Stream, int]) -> None:
        """What had been sent by then and is still not answered counts as failed; an answer that comes yet is unknown (W10)."""
        for stream, last_id in sent.items():
            overdue = list(takewhile(last_id.__ge__, stream.in_flight))
            for delivery_id in overdue:
                self.acknowledge(stream, delivery_id, succeeded=False)
            self._statistics.unanswered += len(overdue)

    def _release(self, lanes: Lanes, job: Job) -> None:
        lanes.release(job)
        if self._exceeding:
            self._excess_shrunk()

    def writable(self, stream: Stream) -> None:
        """The stream's output has drained: it takes triggers again."""
        stream.congested = False
        self._unblocked(stream)
        for target in stream.targets:
            self._feed(target)

    def _unblocked(self, stream: Stream) -> None:
        if stream.blocked_s is not None:
            self._statistics.stream_blocked_s += self._clock.boottime_s() - stream.blocked_s
            stream.blocked_s = None

    # For metrics and operators

    def stream_blocked_s(self) -> float:
        """For how long streams have taken no triggers because their readers did not keep up, of all streams together."""
        now_s = self._clock.boottime_s()
        blocked = (now_s - stream.blocked_s for stream in self._streams if stream.blocked_s is not None)
        return self._statistics.stream_blocked_s + sum(blocked)

    @property
    def sent(self) -> int:
        """Triggers that have left so far."""
        return self._statistics.sent

    def oldest_waiting_ns(self, *, movable: bool) -> int | None:
        """Due time of the job that has waited longest at no gate; `movable`: among those that a stream has room for."""
        oldest: int | None = None
        for target in list(self._targets.values()):
            if not target.waiting or (movable and target.pick() is None):
                continue
            job = target.waiting.head()
            if job is not None and (oldest is None or job.fire_ns < oldest):
                oldest = job.fire_ns
        return oldest

    @property
    def stream_count(self) -> int:
        """Connected WatchJobs streams."""
        return len(self._streams)

    def in_flight_count(self) -> int:
        """Triggers sent and not yet answered."""
        return sum(len(stream.in_flight) for stream in self._streams)

    def oldest_in_flight_s(self) -> float:
        """For how long the trigger sent first of all in flight has not been answered."""
        firsts = (next(iter(stream.in_flight.values())).sent_ns for stream in self._streams if stream.in_flight)
        now_ns = self._clock.wall_ns()
        return max(0, now_ns - min(firsts, default=now_ns)) * 1e-9

    def waiting(self) -> Iterator[tuple[str, int]]:
        """Due jobs that no stream has taken yet (staged): how many of each target, with its namespace."""
        for target in list(self._targets.values()):
            yield names.namespace_of(target.key), len(target.waiting) - target.waiting.gone

    def namespaces_of_streams(self) -> Iterator[tuple[str, int]]:
        """Each stream's namespace, and 1."""
        return ((names.namespace_of(stream.targets[0].key), 1) for stream in self._streams if stream.targets)

    def gates(self) -> list[tuple[Gate, int]]:
        """The gates that connected streams declare, and how many jobs wait at each."""
        return [(gate, target.lanes.pending(gate) if target.lanes else 0) for gate, target in self._gates.values()]
