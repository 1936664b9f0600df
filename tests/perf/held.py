"""What holds a replica's loop: its turns, the callbacks in them and collections of garbage, by the clock and by the CPU time of its thread.

Other processes on the machine move the former and not the latter: what is long by the clock alone, the replica did not do.
`python -m tests.perf.held FILE serve ...` is the command with clocks in it; at SIGUSR2 it writes FILE and begins anew.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import time
from asyncio import events
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scheduler.aio.turns import TurnTimer
from scheduler.cli import main
from tests.support.processes import Replica, wait_until

_BOUNDS_MS = (5, 10, 20)
# What is shorter is only counted.
_KEPT_S = 0.001
_LONGEST = 8
# CPU and wall milliseconds, and what it was.
Piece = tuple[float, float, str]
Found = dict[str, list[Piece]]


class Watched(Replica):
    """A replica with clocks in it."""

    def spawn(self, command: list[str], env: dict[str, str] | None = None) -> None:
        place = command.index("scheduler")
        super().spawn([*command[:place], "tests.perf.held", str(self._file), *command[place + 1 :]], env)

    @property
    def _file(self) -> Path:
        return self.directory / f"{self.name}.held"

    def held(self) -> Found:
        """What has held it since it was asked last."""
        os.kill(self.pid, signal.SIGUSR2)
        wait_until(self._file.exists, timeout_s=60, what="it tells what held it")
        found: Found = json.loads(self._file.read_text())
        self._file.unlink()
        return found


def lines(found: Found) -> Iterator[str]:
    """A table for people."""
    bounds = " ".join(f"{f'>{bound} ms':>8}" for bound in _BOUNDS_MS)
    yield f"{'':<28}{'CPU: longest':>14} {bounds} {'clock: longest':>16} {bounds}"
    for kind, pieces in found.items():
        row = f"{kind:<28}"
        for at, width in ((0, 14), (1, 17)):
            row += f"{max((one[at] for one in pieces), default=0):>{width - 3}.1f} ms "
            row += " ".join(f"{sum(one[at] > bound for one in pieces):>8}" for bound in _BOUNDS_MS)
        yield row
    for cpu_ms, wall_ms, name in sorted(found["callbacks"], reverse=True)[:_LONGEST]:
        yield f"  {cpu_ms:5.1f} ms of CPU in {wall_ms:5.1f} ms: {name}"


def _name(handle: events.Handle) -> str:
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"{owner.get_name()}: {getattr(owner.get_coro(), '__qualname__', '')}"
    protocol = type(getattr(owner, "_protocol", None)).__name__
    return f"{getattr(callback, '__qualname__', repr(callback))} {protocol if protocol != 'NoneType' else ''}".rstrip()


def _watch(file: Path) -> None:
    """Put the clocks in."""
    found: Found = {"turns": [], "callbacks": [], "collections": []}
    began: dict[str, tuple[float, float]] = {}

    def begins(kind: str) -> None:
        began[kind] = time.thread_time(), time.perf_counter()

    def ends(kind: str, name: Callable[[], str]) -> None:
        cpu_s, wall_s = began.pop(kind, (0.0, 0.0))
        took_s = time.perf_counter() - wall_s
        if wall_s and took_s > _KEPT_S:
            found[kind].append(((time.thread_time() - cpu_s) * 1e3, took_s * 1e3, name()))

    run: Callable[[events.Handle], None] = events.Handle._run  # type: ignore[attr-defined]
    select = TurnTimer.select

    def timed_run(handle: events.Handle) -> None:
        name = _name(handle) if handle.__class__ is events.TimerHandle else ""
        begins("callbacks")
        run(handle)
        ends("callbacks", lambda: name or _name(handle))

    def timed_select(selector: TurnTimer, timeout: float | None = None) -> Any:
        ends("turns", str)
        chosen = select(selector, timeout)
        begins("turns")
        return chosen

    def tell(*_: object) -> None:
        part = Path(f"{file}.part")
        part.write_text(json.dumps(found))
        part.rename(file)
        for pieces in found.values():
            pieces.clear()
        began.clear()  # this was no work of the replica's

    events.Handle._run = timed_run  # type: ignore[attr-defined]
    TurnTimer.select = timed_select  # type: ignore[method-assign]
    gc.callbacks.append(
        lambda phase, info: (
            begins("collections")
            if phase == "start"
            else ends("collections", lambda: f"generation {info['generation']}")
        )
    )
    signal.signal(signal.SIGUSR2, tell)


if __name__ == "__main__":
    _watch(Path(sys.argv.pop(1)))
    main()
