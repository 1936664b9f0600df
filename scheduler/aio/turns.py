"""How long each turn of the event loop takes, measured where the loop asks for events: nothing else sees every turn."""

import selectors
import time
from collections.abc import Callable


class TurnTimer(selectors.DefaultSelector):
    """A selector for asyncio.SelectorEventLoop that tells `observe` the seconds between two of its answers and questions: the loop's turns."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """`observe` is called once a turn, so it must be cheap."""
        super().__init__()
        self._observe = observe
        self._began: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See selectors: the loop has finished a turn, and begins another with the answer."""
        if self._began is not None:
            self._observe(time.perf_counter() - self._began)
        events = super().select(timeout)
        self._began = time.perf_counter()
        return events
