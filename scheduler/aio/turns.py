"""How long each turn of the event loop takes, measured and kept short where the loop asks for events: nothing else sees every turn."""

import fcntl
import selectors
import termios
import time
from collections.abc import Callable, Sequence

# A turn that takes longer than this has too many sockets: the next one gets half as many.
_LONG_S = 0.006
# At least so many: timers have their share of each turn, and sockets must not wait for those.
_SOCKETS_MIN, _SOCKETS_MAX = 2, 256
# A socket with no more to read than that is soon done; a turn gets at least so many of them.
_SHORT_BYTES = 4 << 10
_SHORT_MIN = 8
_Events = list[tuple[selectors.SelectorKey, int]]


class TurnTimer(selectors.DefaultSelector):
    """A selector for asyncio.SelectorEventLoop that tells `observe` the seconds between two of its answers and questions: the loop's turns.

    Where turns have become long, one gets as many sockets as it has time for; the others are ready still when it asks again, and have their turn
    then. Sockets with little to read go first, so that neither a request nor etcd's answer to it stands in line behind a storm.
    """

    def __init__(self, observe: Callable[[float], None]) -> None:
        """`observe` is called once a turn, so it must be cheap."""
        super().__init__()
        self._observe = observe
        self._began: float | None = None
        self._sockets = _SOCKETS_MAX
        self._count = 0
        # Who was ready when it was asked last, those that have waited longest first.
        self._line: Sequence[int] = ()

    def select(self, timeout: float | None = None) -> _Events:
        """See selectors: the loop has finished a turn, and begins another with the answer."""
        if self._began is not None:
            seconds = time.perf_counter() - self._began
            self._observe(seconds)
            if seconds > _LONG_S:
                self._sockets = max(_SOCKETS_MIN, min(self._sockets, self._count) // 2)
            elif self._sockets < _SOCKETS_MAX:
                self._sockets += 1
        events = super().select(timeout)
        if len(events) > self._sockets:
            events = self._chosen(events)
        self._count = len(events)
        self._began = time.perf_counter()
        return events

    def _chosen(self, events: _Events) -> _Events:
        """Those that this turn has time for."""
        ready = {key.fd: (key, mask) for key, mask in events}
        waited = [ready.pop(fd) for fd in self._line if fd in ready]
        short: _Events = []
        long: _Events = []
        for event in (*waited, *ready.values()):
            (short if _unread_bytes(event[0].fd) <= _SHORT_BYTES else long).append(event)
        shorts = max(_SHORT_MIN, self._sockets)
        longs = max(1, self._sockets - len(short))
        chosen = short[:shorts] + long[:longs]
        self._line = [key.fd for key, _ in short[shorts:] + long[longs:] + chosen]
        return chosen


def _unread_bytes(fd: int) -> int:
    """How much has come that nobody has read."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")
    except OSError:
        return 0  # a listener
