"""How long each turn of the event loop takes, measured and kept short where the loop asks for events: nothing else sees every turn."""

import selectors
import time
from collections.abc import Callable, Iterable

# A turn that takes longer than this has too many sockets: the next one gets half as many.
_LONG_S = 0.006
# At least so many: timers have their share of each turn, and sockets must not wait for those.
_SOCKETS_MIN, _SOCKETS_MAX = 2, 256
# Of sockets that were quiet a turn gets at least so many.
_FRESH_MIN = 8
# So many turns in a row go without those that always have something, while other work waits for its next turn.
_LIGHT_TURNS = 2
_Events = list[tuple[selectors.SelectorKey, int]]


class TurnTimer(selectors.DefaultSelector):
    """A selector for asyncio.SelectorEventLoop that tells `observe` the seconds between two of its answers and questions: the loop's turns.

    Where turns have become long, one gets as many sockets as it has time for; the others are ready still when it asks again. Those that were quiet
    before go first. Those that always have something go by turns, and leave some turns to whoever needs several of them: a request and its
    answer take six, and would stand behind a storm in each.
    """

    def __init__(self, observe: Callable[[float], None]) -> None:
        """`observe` is called once a turn, so it must be cheap."""
        super().__init__()
        self._observe = observe
        self._began: float | None = None
        self._sockets = _SOCKETS_MAX
        # What the last turn got; who was ready then, those that have waited longest first.
        self._events: _Events = []
        self._line: Iterable[int] = ()
        self._light = 0

    def select(self, timeout: float | None = None) -> _Events:
        """See selectors: the loop has finished a turn, and begins another with the answer."""
        if self._began is not None:
            seconds = time.perf_counter() - self._began
            self._observe(seconds)
            if seconds > _LONG_S:
                self._sockets = max(_SOCKETS_MIN, min(self._sockets, len(self._events)) // 2)
            elif self._sockets < _SOCKETS_MAX:
                self._sockets += 1
        events = super().select(timeout)
        if self._sockets < _SOCKETS_MAX and events:
            events = self._chosen(events, more_to_do=timeout == 0)
        self._events = events
        self._began = time.perf_counter()
        return events

    def _chosen(self, events: _Events, *, more_to_do: bool) -> _Events:
        """Those that this turn has time for."""
        ready = {key.fd: (key, mask) for key, mask in events}
        waited = [ready.pop(fd) for fd in self._line if fd in ready]
        fresh = list(ready.values())
        most = max(_FRESH_MIN, self._sockets)
        fresh, passed = fresh[:most], fresh[most:] + waited
        self._light = self._light + 1 if more_to_do and self._light < _LIGHT_TURNS else 0
        turns = 0 if self._light else max(1, self._sockets - len(fresh))
        chosen = fresh + passed[:turns]
        self._line = [key.fd for key, _ in passed[turns:] + chosen]
        return chosen
