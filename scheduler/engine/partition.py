"""One owned partition: its jobs, its progress that is not committed yet, and how far its journal has grown."""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any

from scheduler.core.lifecycle import Job, State
from scheduler.etcd.api import WatchHandle

# For so long it is fired by what is known of it while no watch tells what etcd holds (promise G8).
_BLIND_MAX_S = 2.0


class Phase(Enum):
    """A partition's way through its owner's hands."""

    LOADING = "loading"
    FIRING = "firing"
    RELEASING = "releasing"  # nothing new is fired; what is in flight may still finish and commit
    ENDED = "ended"


class OwnedPartition:
    """State of one partition under one epoch. The engine alone changes it; the hub counts `in_flight`."""

    __slots__ = (
        "_news",
        "blind",
        "committing",
        "drained",
        "epoch",
        "finished",
        "firing_ns",
        "in_flight",
        "jobs",
        "journal_batches",
        "journal_entries",
        "number",
        "phase",
        "reading",
        "seen",
        "sequence",
        "settled",
        "suspended",
        "watch",
    )

    def __init__(self, number: int, epoch: int) -> None:
        """`epoch` is the claim's create revision: the fencing token of every write."""
        self.number = number
        self.epoch = epoch
        self.phase = Phase.LOADING
        # Since when its jobs are fired here.
        self.firing_ns = 0
        self.jobs: dict[bytes, Job] = {}
        self.in_flight = 0
        # Acknowledged and not committed; a job stands here at most once, since it is not fired again before the commit.
        self.settled: list[Job] = []
        # Done and committed; their records are still in etcd. By generation, in the order in which they are deleted.
        self.finished: dict[int, Job] = {}
        # A journal batch of this partition is on its way.
        self.committing = False
        self.sequence = 0
        self.journal_batches = 0
        self.journal_entries = 0
        self.watch: WatchHandle | None = None
        # A load is at it, and reads again where the watch is lost meanwhile: there is never a second one.
        self.reading = True
        # Runs while no watch tells of what is fired here, and suspends it.
        self.blind: asyncio.TimerHandle | None = None
        # LOADING once more: what is in flight goes on, nothing else is sent until it has been read.
        self.suspended = False
        # All that etcd held of its jobs at this revision is known here.
        self.seen = 0
        # Whoever waits to know more; mostly nobody, and an event takes half a kilobyte.
        self._news: asyncio.Event | None = None
        self.drained: Any = None

    def behind(self, revision: int) -> bool:
        """Whether something is fired, or soon will be, by less than what etcd held at a revision."""
        return self.seen < revision and self.phase in {Phase.LOADING, Phase.FIRING}

    async def know(self, revision: int) -> None:
        """Wait until it is not behind."""
        while self.behind(revision):
            if self._news is None:
                self._news = asyncio.Event()
            await self._news.wait()

    def saw(self, revision: int) -> None:
        """All up to a revision is known."""
        if revision > self.seen:  # noqa: PLR1730 - once for each message of a watch: no calls
            self.seen = revision
        if self._news is not None:
            self.look_again()

    def unwatch(self) -> None:
        """Nothing tells of it any more."""
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None

    def go_blind(self, disarm: Callable[[Job], None], hold: Callable[[list[Job]], None]) -> None:
        """Its watch is lost: unless there is another in time, its timers are disarmed and its waiting jobs held."""
        if self.blind is None:
            self.blind = asyncio.get_running_loop().call_later(_BLIND_MAX_S, self._suspend, disarm, hold)

    def see(self) -> None:
        """It is watched, or no longer fired: it is not blind."""
        if self.blind is not None:
            self.blind.cancel()
            self.blind = None

    def _suspend(self, disarm: Callable[[Job], None], hold: Callable[[list[Job]], None]) -> None:
        self.blind = None
        if self.phase is Phase.FIRING:
            self.phase, self.suspended = Phase.LOADING, True
            for job in self.jobs.values():
                if job.state is State.ARMED:
                    disarm(job)
            hold([job for job in self.jobs.values() if job.state is State.WAITING])

    def look_again(self) -> None:
        """What `know` waits for may have come: more is known, or nothing is fired any more."""
        if self._news is not None:
            self._news.set()
            self._news = None

    def __repr__(self) -> str:
        return (
            f"<OwnedPartition {self.number} {self.phase.name} epoch={self.epoch} jobs={len(self.jobs)} "
            f"in_flight={self.in_flight} settled={len(self.settled)} sequence={self.sequence}>"
        )
