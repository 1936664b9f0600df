"""The timer queue of a replica: which jobs are due, in the order of their time, cheap enough for millions.

Instants are rounded up to a grain, so that jobs due close together share one wake-up and one heap entry: a little late, never early.
Cancelling marks; marked entries fall out when they come up, or in a sweep once they outnumber the live ones.
"""

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Any

from scheduler.core.lifecycle import Job

GRAIN_NS = 4_000_000
_SWEEP_MIN = 4_096


class TimerQueue:
    """Jobs by due time. A job is in the queue exactly while its `timer` is not None; the queue alone writes that field."""

    __slots__ = ("_buckets", "_cancelled", "_grains", "_live", "_ready")

    def __init__(self) -> None:
        self._grains: list[int] = []
        # One job, or a list of them: most grains of a quiet queue hold one.
        self._buckets: dict[int, Any] = {}
        self._ready: deque[tuple[int, Job]] = deque()
        self._live = 0
        self._cancelled = 0

    def __len__(self) -> int:
        return self._live

    def push(self, job: Job) -> None:
        """Queue the job for its `fire_ns`; a job that is queued already moves."""
        if job.timer is not None:
            self.cancel(job)
        grain = -(-job.fire_ns // GRAIN_NS)
        job.timer = grain
        self._live += 1
        bucket = self._buckets.get(grain)
        if bucket is None:
            self._buckets[grain] = job
            heappush(self._grains, grain)
        elif type(bucket) is list:
            bucket.append(job)
        else:
            self._buckets[grain] = [bucket, job]

    def cancel(self, job: Job) -> None:
        """Take the job out, wherever it is; no harm if it is not in."""
        if job.timer is None:
            return
        job.timer = None
        self._live -= 1
        self._cancelled += 1
        if self._cancelled > _SWEEP_MIN and self._cancelled > self._live:
            self._sweep()

    def next_due_ns(self) -> int | None:
        """When the queue wants to be asked again; None while it is empty. Never earlier than the first live job's time."""
        if self._ready:
            return self._ready[0][0] * GRAIN_NS
        return self._grains[0] * GRAIN_NS if self._grains else None

    def pop_due(self, now_ns: int, limit: int) -> list[Job]:
        """At most `limit` jobs whose time has come, earliest first; the rest keeps its place."""
        due: list[Job] = []
        ready, grains, buckets = self._ready, self._grains, self._buckets
        now_grain = now_ns // GRAIN_NS
        while len(due) < limit:
            if ready:
                grain, job = ready.popleft()
                if job.timer == grain:
                    job.timer = None
                    due.append(job)
                else:
                    self._cancelled -= 1
                continue
            if not grains or grains[0] > now_grain:
                break
            grain = heappop(grains)
            bucket = buckets.pop(grain)
            if type(bucket) is list:
                ready.extend((grain, job) for job in bucket)
            else:
                ready.append((grain, bucket))
        self._live -= len(due)
        return due

    def _sweep(self) -> None:
        """Drop all cancelled entries at once."""
        kept: dict[int, Any] = {}
        for grain, bucket in self._buckets.items():
            jobs = [job for job in (bucket if type(bucket) is list else [bucket]) if job.timer == grain]
            if jobs:
                kept[grain] = jobs[0] if len(jobs) == 1 else jobs
        self._ready = deque((grain, job) for grain, job in self._ready if job.timer == grain)
        self._buckets = kept
        self._grains = list(kept)
        heapify(self._grains)
        self._cancelled = 0
