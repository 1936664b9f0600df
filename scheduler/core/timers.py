"""The timer queue of a replica: which jobs are due, in the order of their time, cheap enough for millions.

Where an instant has more jobs than can be fired at once, its jobs are sorted by target, and targets and later instants get their turns: one app's
storm does not keep the others waiting.

Instants are rounded up to a grain, so that jobs due close together share one wake-up and one heap entry: a little late, never early. Later jobs
stand in buckets of coarser levels, a pointer each; a coarse bucket is spread over the finer level, in slices, a whole period ahead of its time.
A large payload may rest while its job stands there: whoever keeps payloads hears of it, and hears again when it is needed soon.
Cancelling marks; marked entries fall out when they come up, or once they are half of their bucket.
"""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, Protocol

from scheduler.core.lifecycle import Job

GRAIN_NS = 3_000_000
# A bucket's width at each level, in grains as a power of two: 3 ms, 49 s, 9 days.
_LEVEL_BITS = (0, 14, 28)
_NEVER = 1 << 100
# Jobs that leave coarse buckets in one go: well below a millisecond.
_SPREAD_SLICE = 1_024
# Jobs that are sorted by target in one go: a few milliseconds.
_SORT_SLICE = 16_384
_NOBODY = object()


class Payloads(Protocol):
    """Whoever keeps what triggers carry."""

    @property
    def kept_bytes(self) -> int:
        """Triggers of more bytes need not be in memory while their jobs stand in coarse buckets."""

    def rest(self, job: Job) -> None:
        """The job was queued in a coarse bucket, with such a trigger."""

    def want(self, job: Job) -> None:
        """The job was queued in its grain, at least a coarse bucket's width ahead unless it comes anew, and its trigger is None."""


class _Kept:
    """All stay in memory."""

    kept_bytes = _NEVER

    def rest(self, job: Job) -> None:
        pass

    want = rest


_KEPT = _Kept()


class _Bucket(list[Job]):
    """Jobs of one grain or coarse period; `gone` of its entries are cancelled. Once a grain has come, its first job is the last of the list."""

    gone = 0


class _Level:
    """Buckets of one width."""

    __slots__ = ("bits", "buckets", "horizon", "periods")

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.buckets: dict[int, _Bucket] = {}
        # A heap of the buckets' numbers.
        self.periods: list[int] = []
        # The first grain that belongs to the level above.
        self.horizon = _NEVER

    def add(self, grain: int, job: Job) -> None:
        period = grain >> self.bits
        bucket = self.buckets.get(period)
        if bucket is None:
            bucket = self.buckets[period] = _Bucket()
            heappush(self.periods, period)
        bucket.append(job)
        job.timer = bucket

    def pop(self) -> _Bucket:
        """The earliest bucket."""
        return self.buckets.pop(heappop(self.periods))


class TimerQueue:
    """Jobs by due time. A job is in the queue exactly while its `timer` is not None; the queue alone writes that field: the bucket it stands in."""

    __slots__ = ("_advance_at", "_kept", "_levels", "_live", "_payloads", "_ready", "_ready_ns", "_unsorted")

    def __init__(
        self, now_ns: int = 0, payloads: Payloads = _KEPT, kept: Callable[[int], None] = lambda _count: None
    ) -> None:
        """Jobs of the time around `now_ns` go to their grains at once. `kept` hears how many jobs stand in new lists: a collector walks those, job by job."""
        self._kept = kept
        self._payloads = payloads
        self._levels = tuple(_Level(bits) for bits in _LEVEL_BITS)
        # The grain at which some horizon must move on.
        self._advance_at = 0
        # Grains that have come and are not used up yet, by turns; and when it was asked last.
        self._ready: deque[_Bucket] = deque()
        # Grains that have come while others wait, or with more jobs than can be fired at once: to be sorted by target.
        self._unsorted: deque[_Bucket] = deque()
        self._ready_ns = 0
        self._live = 0
        self._advance(now_ns // GRAIN_NS)

    def __len__(self) -> int:
        return self._live

    def push(self, job: Job) -> None:
        """Queue the job for its `fire_ns`; a job that is queued already moves."""
        if job.timer is not None:
            self.cancel(job)
        self._live += 1
        grain = -(-job.fire_ns // GRAIN_NS)
        finest, coarse, last = self._levels
        if grain < finest.horizon:
            finest.add(grain, job)
            if job.trigger is None:
                self._payloads.want(job)
        else:
            (coarse if grain < coarse.horizon else last).add(grain, job)
            if job.trigger is not None and len(job.trigger) > self._payloads.kept_bytes:
                self._payloads.rest(job)

    def cancel(self, job: Job) -> None:
        """Take the job out, wherever it is; no harm if it is not in."""
        bucket: _Bucket | None = job.timer
        if bucket is None:
            return
        job.timer = None
        self._live -= 1
        bucket.gone += 1
        if bucket.gone * 2 > len(bucket):
            bucket[:] = [one for one in bucket if one.timer is bucket]
            bucket.gone = 0

    def next_due_ns(self) -> int | None:
        """When the queue wants to be asked again: for jobs that are due, or for a bucket that is to be spread. None while it is empty."""
        if self._ready or self._unsorted:
            return self._ready_ns
        wanted = _NEVER
        for level in self._levels:
            if level.periods:
                grain = (level.periods[0] - (level.bits > 0)) << level.bits
                if grain < wanted:  # noqa: PLR1730 - asked at each wake-up and each change: no call of min
                    wanted = grain
        return wanted * GRAIN_NS if wanted < _NEVER else None

    def pop_due(self, now_ns: int, limit: int) -> list[Job]:
        """At most `limit` jobs whose time has come, earliest first, but that each instant, and each target in a full one, gets a share."""
        due: list[Job] = []
        self._ready_ns = now_ns
        now_grain = now_ns // GRAIN_NS
        if now_grain >= self._advance_at:
            self._advance(now_grain)
        ready, grains = self._ready, self._levels[0]
        small: list[_Bucket] = []
        while grains.periods and grains.periods[0] <= now_grain:
            bucket = grains.pop()
            bucket.reverse()
            if len(bucket) > 2 * limit:
                self._unsorted.append(bucket)
            else:
                (small if ready else ready).append(bucket)
        self._unsorted.extendleft(reversed(small))
        self._sort()
        while ready and (left := limit - len(due)) > 0:
            bucket = ready[0]
            share = max(1, left // len(ready))
            while bucket and share:
                job = bucket.pop()
                if job.timer is bucket:
                    job.timer = None
                    due.append(job)
                    share -= 1
                else:
                    bucket.gone -= 1
            if bucket:
                ready.rotate(-1)
            else:
                ready.popleft()
        self._live -= len(due)
        return due

    def _sort(self) -> None:
        """Make buckets by target of what has come and cannot be fired at once, a slice of it: they are ready."""
        left = _SORT_SLICE
        for _ in range(len(self._unsorted)):
            bucket = self._unsorted.popleft()
            lines: dict[Any, _Bucket] = {}
            line, target = _Bucket(), _NOBODY
            taken = bucket[: -left - 1 : -1]
            del bucket[-left:]
            left -= len(taken)
            self._kept(len(taken))
            for job in taken:
                if job.timer is not bucket:
                    bucket.gone -= 1
                    continue
                if job.target is not target:
                    target = job.target
                    if target not in lines:
                        lines[target] = _Bucket()
                    line = lines[target]
                line.append(job)
                job.timer = line
            for line in lines.values():
                line.reverse()
            self._ready.extend(lines.values())
            if bucket:
                self._unsorted.append(bucket)
            if not left:
                return

    def _advance(self, now_grain: int) -> None:
        """Move each level's horizon to the end of the next coarser period, and what it passes down a level, a slice at a time."""
        left = _SPREAD_SLICE
        advance_at = _NEVER
        for finer, coarser in reversed(list(pairwise(self._levels))):
            end = (now_grain >> coarser.bits) + 2
            before, finer.horizon = finer.horizon, end << coarser.bits
            while coarser.periods and coarser.periods[0] < end:
                left -= self._spread(coarser.buckets[coarser.periods[0]], left)
                if not left:
                    finer.horizon = before
                    break
                coarser.pop()
            advance_at = min(advance_at, finer.horizon - (1 << coarser.bits))
        self._advance_at = advance_at

    def _spread(self, bucket: _Bucket, limit: int) -> int:
        """Push at most `limit` jobs of a coarse bucket anew, and return how many that were."""
        count = min(limit, len(bucket))
        for _ in range(count):
            job = bucket.pop()
            if job.timer is bucket:
                job.timer = None
                self._live -= 1
                self.push(job)
            else:
                bucket.gone -= 1
        self._kept(count)
        return count
