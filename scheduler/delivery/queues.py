"""Due jobs that no stream has taken yet, in order of arrival: a plain queue, or lanes under concurrency limits.

A job that is GONE keeps its place, counted in `gone`, until it comes up or the hub makes the queue anew.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from scheduler.core.lifecycle import Job, State
from scheduler.delivery.gates import Gate

_WAITING = State.WAITING


class Fifo(deque[Job]):
    """Waiting jobs that nothing but a stream's room holds back."""

    gone = 0

    def head(self) -> Job | None:
        """The oldest job; None: there is none."""
        while self:
            job = self[0]
            if job.state is _WAITING:
                return job
            self.popleft()
            self.gone -= 1
        return None

    def take(self) -> None:
        """What `head` has just given is being sent."""
        self.popleft()


class _Lane:
    """Waiting jobs that the same gates apply to, by arrival."""

    __slots__ = ("gate", "jobs", "ready")

    def __init__(self, gate: Gate | None) -> None:
        self.gate = gate
        self.jobs: deque[tuple[int, Job]] = deque()
        self.ready = False  # it stands in the heap of lanes that may send


class Lanes:
    """The gates of one actor type, and its waiting jobs: the oldest whose gates are all open goes first, and nobody overtakes it."""

    def __init__(self, gates: Sequence[Gate], waiting: Iterable[Job], in_flight: Iterable[Job]) -> None:
        """Takes over what waits, in its order, and counts what is in flight already."""
        self.gates = {gate.name: gate for gate in gates}
        self._type_gate = self.gates.get(None)
        self._lanes: dict[str | None, _Lane] = {None: _Lane(None)}
        self._lanes.update({name: _Lane(gate) for name, gate in self.gates.items() if name is not None})
        self._ready: list[tuple[int, int, _Lane]] = []
        self._count = 0
        self._last = self._first = 0
        self.gone = 0
        for gate in gates:
            gate.in_flight = 0
        for job in in_flight:
            self.acquire(job)
        for job in waiting:
            self.append(job)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        """All that waits, oldest first."""
        return (
            job for _, job in heapq.merge(*(lane.jobs for lane in self._lanes.values()), key=lambda entry: entry[0])
        )

    def _lane(self, job: Job) -> _Lane:
        return self._lanes.get(job.concurrency_key) or self._lanes[None]

    def append(self, job: Job) -> None:
        """A due job, behind all others."""
        self._last += 1
        lane = self._lane(job)
        lane.jobs.append((self._last, job))
        self._count += 1
        self._list(lane)

    def extendleft(self, jobs: Iterable[Job]) -> None:
        """Jobs whose stream broke, before all others; the last one given comes first, as with a deque."""
        for job in jobs:
            self._first -= 1
            lane = self._lane(job)
            lane.jobs.appendleft((self._first, job))
            self._count += 1
            lane.ready = False  # an older head: it is listed anew, its old place is passed over
            self._list(lane)

    def _list(self, lane: _Lane) -> None:
        if lane.jobs and not lane.ready and (lane.gate is None or lane.gate.open):
            lane.ready = True
            heapq.heappush(self._ready, (lane.jobs[0][0], id(lane), lane))

    def head(self) -> Job | None:
        """The oldest job whose gates are open; None: there is none."""
        if self._type_gate is not None and not self._type_gate.open:
            return None
        while self._ready:
            sequence, _, lane = self._ready[0]
            jobs = lane.jobs
            if not lane.ready or not jobs or jobs[0][0] != sequence:
                heapq.heappop(self._ready)  # an outdated place
            elif jobs[0][1].state is not _WAITING:
                self._drop(lane)
                self.gone -= 1
            elif lane.gate is not None and not lane.gate.open:
                heapq.heappop(self._ready)
                lane.ready = False
            else:
                return jobs[0][1]
        return None

    def take(self) -> None:
        """What `head` has just given is being sent."""
        lane = self._ready[0][2]
        self.acquire(lane.jobs[0][1])
        self._drop(lane)

    def _drop(self, lane: _Lane) -> None:
        """The lane's head leaves; the lane is listed by its next."""
        heapq.heappop(self._ready)
        lane.jobs.popleft()
        self._count -= 1
        lane.ready = False
        self._list(lane)

    def _gates_of(self, job: Job) -> Iterator[Gate]:
        if self._type_gate is not None:
            yield self._type_gate
        if job.concurrency_key is not None and (gate := self.gates.get(job.concurrency_key)) is not None:
            yield gate

    def acquire(self, job: Job) -> None:
        """A trigger of the job is in flight."""
        for gate in self._gates_of(job):
            gate.in_flight += 1

    def release(self, job: Job) -> None:
        """A trigger of the job has ended."""
        for gate in self._gates_of(job):
            gate.in_flight -= 1
        self._list(self._lane(job))

    def widen(self) -> None:
        """Rooms have changed: look at every lane again."""
        for lane in self._lanes.values():
            self._list(lane)

    def refused(self, job: Job) -> None:
        """Count that a gate holds the job back, for the first gate that does."""
        for gate in self._gates_of(job):
            if not gate.open:
                gate.throttled += 1
                return

    def pending(self, gate: Gate) -> int:
        """Jobs that wait at a gate; those with two gates count at the type's."""
        if gate is self._type_gate:
            return self._count
        return len(self._lanes[gate.name].jobs) if self._type_gate is None else 0
