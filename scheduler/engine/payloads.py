"""Payloads that rest: large triggers of jobs that are due much later are not kept in memory, and are read from etcd again ahead of the due time.

The timer queue tells which (core/timers.py). A job that is due before its payload has come is held; it is armed again, and so fired, once that is here.
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from scheduler.core.lifecycle import Job
from scheduler.etcd.errors import EtcdError
from scheduler.logs import get_logger
from scheduler.metrics import EngineStatistics
from scheduler.store.partition import PartitionReader

_LOADS_AT_ONCE = 4
_RETRY_S = 1.0

_log = get_logger("engine.payloads")


class Payloads:
    """Who rests, who is wanted, who is held."""

    def __init__(self, *, reader: PartitionReader, statistics: EngineStatistics, kept_bytes: int) -> None:
        """`kept_bytes`: smaller triggers stay in memory."""
        self._reader = reader
        self._statistics = statistics
        self.kept_bytes = kept_bytes
        # By the bytes that they would take.
        self._resting: dict[Job, int] = {}
        self.resting_bytes = 0
        # Of those that rest: to be loaded, the earliest first, or being loaded; and due already.
        self._wanted: dict[Job, None] = {}
        self._queue: asyncio.PriorityQueue[tuple[int, int, Job]] = asyncio.PriorityQueue()
        self._queued = 0
        self._held: dict[Job, None] = {}

    async def run(self, arm: Callable[[Job], None]) -> None:
        """Load what is wanted until cancelled; `arm(job)` hears of each held job whose payload has come."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(_LOADS_AT_ONCE):
                tasks.create_task(self._work(arm), name=f"engine loads of payloads {number}")

    def rest(self, job: Job) -> None:
        """The job is due much later: its payload leaves memory."""
        self._resting[job] = size = len(job.trigger)
        self.resting_bytes += size
        job.trigger = None

    def want(self, job: Job) -> None:
        """The job is due soon: load its payload."""
        if job not in self._wanted:
            self._wanted[job] = None
            self._queued += 1
            self._queue.put_nowait((job.fire_ns, self._queued, job))

    def hold(self, job: Job) -> None:
        """The job is due, and its payload is not here yet."""
        self._statistics.payloads_awaited += job not in self._held
        self._held[job] = None
        self.want(job)

    def forget(self, job: Job) -> None:
        """The job is GONE."""
        self.resting_bytes -= self._resting.pop(job, 0)
        self._wanted.pop(job, None)
        self._held.pop(job, None)

    @property
    def resting(self) -> int:
        """Jobs whose payloads are not in memory."""
        return len(self._resting)

    def oldest_held_ns(self) -> int | None:
        """Due time of the job that has been held longest."""
        return min((job.fire_ns for job in self._held), default=None)

    async def _work(self, arm: Callable[[Job], None]) -> NoReturn:
        while True:
            _, _, job = await self._queue.get()
            while job in self._wanted:
                try:
                    trigger = await self._reader.trigger(job.key, job.generation)
                except EtcdError as error:
                    self._statistics.payload_load_failures += 1
                    _log.warning("payload_load_failed", partition=job.partition.number, error=str(error))
                    await asyncio.sleep(_RETRY_S)
                    continue
                if job in self._wanted and self._came(job, trigger):
                    arm(job)
                break

    def _came(self, job: Job, trigger: bytes | None) -> bool:
        """Whether the job can be fired, and should have been. Of a generation that is not there any more the watch tells, or the next reading."""
        if trigger is None:
            del self._wanted[job]
            return False
        self._statistics.payload_loads += 1
        held = job in self._held
        self.forget(job)
        job.trigger = trigger
        return held
