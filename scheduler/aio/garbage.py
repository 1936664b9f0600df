"""The garbage collector of a process that keeps millions of objects: it looks at what is new, and never again at what has stayed.

A job is no part of a cycle, so nothing is lost by never looking at it again, while each full collection would hold the loop for half a second per
million. Whoever keeps many objects says so (`kept`): every two thousand of them one collection, which is short because all before is frozen, then the freeze.
What is frozen and later becomes a cycle stays: so connections and calls break their cycles when they end, and tests/perf holds them to it.
"""

import gc
import time
from collections.abc import Callable

# New objects before the collector looks at the young: it looks at fewer than this, in about a millisecond.
_THRESHOLDS = (10_000, 10, 10)
_FREEZE_AFTER = 2_000


class Garbage:
    """Settings of this process's collector. One instance; `install` once."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """`observe` hears how long each collection held everything up, in seconds."""
        self._observe = observe
        self._began = 0.0
        self._fresh = 0

    def install(self) -> None:
        """Measure from now on; what the imports left stays."""
        gc.set_threshold(*_THRESHOLDS)
        gc.freeze()
        gc.callbacks.append(self._watch)

    def uninstall(self) -> None:
        """Leave the process as other code expects it."""
        gc.callbacks.remove(self._watch)

    def kept(self, count: int) -> None:
        """So many objects more will stay for long."""
        self._fresh += count
        if self._fresh >= _FREEZE_AFTER:
            self._freeze()

    def _freeze(self) -> None:
        self._fresh = 0
        gc.collect()
        gc.freeze()

    def _watch(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._observe(time.perf_counter() - self._began)
