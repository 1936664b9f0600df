"""How long each turn of the event loop takes, measured and kept short where the loop asks for events: nothing else sees every turn."""

import selectors
import time
from collections.abc import Callable

# A turn that takes longer than this has too many sockets: the next one gets half as many.
_LONG_S = 0.006
# At least so many: timers have their share of each turn, and sockets must not wait for those.
_SOCKETS_MIN, _SOCKETS_MAX = 2, 256


class TurnTimer(selectors.DefaultSelector):
    """A selector for asyncio.SelectorEventLoop that tells `observe` the seconds between two of its answers and questions: the loop's turns.

    Where many sockets are ready, a turn gets as many as it has time for; the others are ready still when it asks again, and have their turn then.
    """

    def __init__(self, observe: Callable[[float], None]) -> None:
        """`observe` is called once a turn, so it must be cheap."""
        super().__init__()
        self._observe = observe
        self._began: float | None = None
        self._sockets = _SOCKETS_MAX
        self._first = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See selectors: the loop has finished a turn, and begins another with the answer."""
        if self._began is not None:
            seconds = time.perf_counter() - self._began
            self._observe(seconds)
            if seconds > _LONG_S:
                self._sockets = max(_SOCKETS_MIN, self._sockets // 2)
            elif self._sockets < _SOCKETS_MAX:
                self._sockets += 1
        events = super().select(timeout)
        count, most = len(events), self._sockets
        if count > most:
            # From where the last turn ended, so that none is left out for long.
            first = self._first % count
            self._first = first + most
            events = (events + events)[first : first + most]
        self._began = time.perf_counter()
        return events
