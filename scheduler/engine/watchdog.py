"""Liveness tied to progress (design 1.6): whether what is due leaves and what has settled is tried to be committed, not whether the process runs.

A replica that does not move has a fault of its own. It says so (metric, readiness), then gives its partitions up so that others fire them,
fails its liveness check, and ends itself where nobody restarts it. That etcd does not answer, that no client is connected or that
everything due is in flight is none of its faults: it waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from scheduler.core.errors import SchedulerError
from scheduler.engine.commits import Commits
from scheduler.engine.ports import Hub
from scheduler.logs import get_logger
from scheduler.metrics import EngineStatistics

PERIOD_S = 0.5
# A slice of a storm may hold up a due job for a while; what is later than this should have left.
OVERDUE_S = 1.0
NOT_READY_S = 5.0
GIVE_UP_S = 15.0
END_S = 60.0

_log = get_logger("engine.watchdog")


class EngineStuck(SchedulerError):
    """The engine has not moved for a minute: only a new process helps."""


class Watched(Protocol):
    """What the engine shows of its progress."""

    @property
    def movable_s(self) -> float:
        """How long the oldest due occurrence has been able to leave, and has not; 0 where firing is not allowed."""

    @property
    def hub(self) -> Hub:
        """Where occurrences leave."""

    @property
    def commits(self) -> Commits:
        """Where settled jobs wait."""


class Watchdog:
    """Watches one engine."""

    def __init__(
        self, *, engine: Watched, statistics: EngineStatistics, give_up: Callable[[str], Awaitable[None]]
    ) -> None:
        """`give_up(reason)` gives all partitions up, once and for good."""
        self._engine = engine
        self._statistics = statistics
        self._give_up = give_up
        self._fired = self._attempts = 0
        self._firing_stuck_s = self._committing_stuck_s = 0.0
        self._given_up: str | None = None

    @property
    def stuck_s(self) -> float:
        """How long the engine has had something to do and has not moved."""
        return max(self._firing_stuck_s, self._committing_stuck_s)

    def not_ready(self) -> str | None:
        """Why clients should go elsewhere; None: they need not."""
        return self._given_up or (self._reason() if self.stuck_s >= NOT_READY_S else None)

    def not_live(self) -> str | None:
        """Why the process should be replaced; None: it should not."""
        return self._given_up

    def _reason(self) -> str:
        if self._firing_stuck_s >= self._committing_stuck_s:
            return f"nothing that is due has left for {self._firing_stuck_s:.0f} s"
        return f"no commit was tried for {self._committing_stuck_s:.0f} s, and {self._engine.commits.uncommitted} results wait"

    async def run(self) -> None:
        """Watch until cancelled. Raises EngineStuck after a minute without progress."""
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            await asyncio.sleep(PERIOD_S)
            elapsed_s = loop.time() - started_s
            self._statistics.loop_lag_seconds.observe(max(0.0, elapsed_s - PERIOD_S))
            self.step(elapsed_s)
            if self._given_up is None and self.stuck_s >= GIVE_UP_S:
                self._given_up = self._reason()
                _log.error("engine_stuck", reason=self._given_up)
                await self._give_up(self._given_up)

    def step(self, elapsed_s: float) -> None:
        """Compare with the last look, `elapsed_s` ago. Raises EngineStuck."""
        # A process that was paused, or starved, has not had that time for moving.
        elapsed_s = min(elapsed_s, 2 * PERIOD_S)
        if self._given_up is not None:
            # Its partitions are gone, so nothing can move any more: time alone counts.
            self._firing_stuck_s += elapsed_s
            if self.stuck_s >= END_S:
                raise EngineStuck(self._given_up)
            return
        engine, fired, attempts = self._engine, self._fired, self._attempts
        self._fired, self._attempts = engine.hub.sent, engine.commits.attempts
        idle = engine.movable_s < OVERDUE_S or self._fired != fired
        self._firing_stuck_s = 0.0 if idle else self._firing_stuck_s + elapsed_s
        idle = not engine.commits.uncommitted or self._attempts != attempts
        self._committing_stuck_s = 0.0 if idle else self._committing_stuck_s + elapsed_s
