"""Time as an argument: the wall clock for due times, CLOCK_BOOTTIME for leases and durations (promise G12)."""

import time
from typing import Protocol


class Clock(Protocol):
    """Both clocks of one machine."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, UTC; may be set, may step back."""

    def boottime_s(self) -> float:
        """Seconds that only ever grow, suspend included."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def wall_ns(self) -> int:
        """See Clock."""
        return time.time_ns()

    def boottime_s(self) -> float:
        """See Clock."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
