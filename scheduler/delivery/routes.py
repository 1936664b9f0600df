"""Whom jobs are for, and who takes them: targets with their waiting jobs, and streams with their triggers in flight."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from scheduler.core.lifecycle import Job, State
from scheduler.delivery.gates import Gate
from scheduler.delivery.queues import Fifo, Lanes
from scheduler.metrics import NamespaceStatistics

_WAITING = State.WAITING


class Limit(NamedTuple):
    """A stream's declaration: at most `max_concurrent` triggers of an actor type in flight, or of one concurrency key within it."""

    target_key: str
    name: str | None
    max_concurrent: int


class Outlet(Protocol):
    """What the hub needs of a WatchJobs call (scheduler.http2.server.Call has it)."""

    @property
    def send_buffered(self) -> int:
        """Bytes that flow control or the socket has not taken yet."""

    def send_framed(self, chunk: bytes) -> None:
        """Queue whole gRPC messages that carry their frames already."""


class Target:
    """An addressee of jobs: the app of a namespace, or an actor type of a namespace. Jobs that no stream can take wait here, in order."""

    __slots__ = (
        "__weakref__",
        "attended_ns",
        "feeding",
        "gates",
        "is_actor",
        "key",
        "lanes",
        "lateness",
        "namespace",
        "streams",
        "turn",
        "waiting",
    )

    def __init__(self, key: str, namespace: NamespaceStatistics) -> None:
        """`key` is the storage key's first three segments: kind, namespace, app id or actor type. `namespace` counts for all of it."""
        self.key = key
        self.namespace = namespace
        self.lateness = namespace.lateness
        self.is_actor = not key.startswith("app||")
        self.streams: list[Stream] = []
        # Since when there has been a stream without a break.
        self.attended_ns = 0
        self.waiting: Fifo | Lanes = Fifo()
        # The same object as `waiting` while concurrency limits apply to this target.
        self.lanes: Lanes | None = None
        self.gates: dict[str, Gate] = {}
        self.turn = 0
        self.feeding = False

    def pick(self) -> "Stream | None":
        """The stream with the fewest triggers in flight, in turn among equals; None if none has room."""
        streams = self.streams
        count = len(streams)
        if count == 1:
            stream = streams[0]
            return stream if not stream.congested and len(stream.in_flight) < stream.window else None
        best: Stream | None = None
        fewest = 1 << 62
        turn = self.turn = (self.turn + 1) % count if count else 0
        for index in range(turn - count, turn):
            stream = streams[index]
            load = len(stream.in_flight)
            if load < fewest and load < stream.window and not stream.congested:
                best, fewest = stream, load
        return best

    def requeue(self) -> None:
        """Make the queue anew, under the gates as they are now, without the jobs that are gone."""
        waiting = (job for job in self.waiting if job.state is _WAITING)
        if self.gates:
            in_flight = (job for stream in self.streams for job in stream.in_flight.values() if job.target is self)
            self.waiting = self.lanes = Lanes(tuple(self.gates.values()), waiting, in_flight)
        else:
            self.waiting, self.lanes = Fifo(waiting), None


class Stream:
    """One WatchJobs stream and the triggers it carries."""

    __slots__ = (
        "blocked_s",
        "congested",
        "gates",
        "in_flight",
        "last_id",
        "outlet",
        "output",
        "output_bytes",
        "targets",
        "window",
    )

    def __init__(self, outlet: Outlet, targets: Sequence[Target], window: int) -> None:
        """Made by `Hub.attach`."""
        self.outlet = outlet
        self.targets = targets
        self.window = window
        self.in_flight: dict[int, Job] = {}
        self.gates: dict[str, None] = {}
        self.last_id = 0
        self.output: list[bytes] = []
        self.output_bytes = 0
        self.congested = False
        # Since when its reader has not kept up; None: it does.
        self.blocked_s: float | None = None

    def __repr__(self) -> str:
        names = ",".join(target.key for target in self.targets)
        return f"<Stream [{names}] in_flight={len(self.in_flight)}/{self.window} last_id={self.last_id} congested={self.congested}>"
