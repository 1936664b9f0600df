"""One owned partition: its jobs, its progress that is not committed yet, and how far its journal has grown."""

import asyncio
from enum import Enum
from typing import Any

from scheduler.core.lifecycle import Job
from scheduler.etcd.api import WatchHandle


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
        "seen",
        "sequence",
        "settled",
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
