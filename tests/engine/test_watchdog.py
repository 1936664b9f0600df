"""Liveness follows progress: what counts as standing still, what does not, and what comes of it."""

import pytest

from scheduler.engine import watchdog as module
from scheduler.engine.watchdog import EngineStuck, Watchdog
from scheduler.metrics import EngineStatistics


class Engine:
    """Shows whatever a test sets."""

    movable_s = 0.0
    sent = uncommitted = attempts = 0

    @property
    def hub(self) -> "Engine":
        return self

    commits = hub


class Bench:
    def __init__(self) -> None:
        self.engine = Engine()
        self.given_up: list[str] = []
        self.watchdog = Watchdog(engine=self.engine, statistics=EngineStatistics(), give_up=self._give_up)

    async def _give_up(self, reason: str) -> None:
        self.given_up.append(reason)

    def steps(self, seconds: float) -> None:
        for _ in range(int(seconds / module.PERIOD_S)):
            self.watchdog.step(module.PERIOD_S)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_idle_engine_is_well(bench) -> None:
    bench.steps(600)
    assert bench.watchdog.stuck_s == 0
    assert bench.watchdog.not_ready() is bench.watchdog.not_live() is None


def test_what_is_due_and_does_not_leave_is_told_after_five_seconds(bench) -> None:
    bench.engine.movable_s = 1.5
    bench.steps(4.5)
    assert bench.watchdog.not_ready() is None
    bench.steps(1)
    assert bench.watchdog.not_ready() == "nothing that is due has left for 6 s"
    assert bench.watchdog.not_live() is None
    bench.engine.sent += 1
    bench.steps(0.5)
    assert bench.watchdog.not_ready() is None


def test_a_storm_that_takes_long_is_progress(bench) -> None:
    bench.engine.movable_s = 30
    for _ in range(100):
        bench.engine.sent += 512
        bench.steps(0.5)
    assert bench.watchdog.stuck_s == 0


def test_commits_that_fail_are_tried_and_those_that_are_not_tried_stand_still(bench) -> None:
    bench.engine.uncommitted = 7
    for _ in range(40):
        bench.engine.attempts += 1
        bench.steps(3)  # each attempt runs out of time
    assert bench.watchdog.not_ready() is None
    bench.steps(6)
    assert bench.watchdog.not_ready() == "no commit was tried for 8 s, and 7 results wait"


def test_a_paused_process_has_not_stood_still(bench) -> None:
    bench.engine.movable_s = 40
    bench.watchdog.step(40)
    assert bench.watchdog.stuck_s <= 2 * module.PERIOD_S


async def test_it_gives_up_once_then_fails_liveness_then_ends(bench, monkeypatch) -> None:
    monkeypatch.setattr(module, "PERIOD_S", 0.002)
    monkeypatch.setattr(module, "GIVE_UP_S", 0.02)
    monkeypatch.setattr(module, "END_S", 0.06)
    bench.engine.movable_s = 2
    with pytest.raises(EngineStuck):
        await bench.watchdog.run()
    assert len(bench.given_up) == 1
    assert bench.watchdog.not_live() == bench.watchdog.not_ready() == bench.given_up[0]
