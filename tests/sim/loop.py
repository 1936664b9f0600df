"""Virtual time: an asyncio loop whose clock jumps to the next timer, and machines on it that can be frozen or killed between any two callbacks.

Every callback belongs to the `Machine` in its context (None: the world outside). A frozen machine's callbacks are set aside and run when it
thaws, as with SIGSTOP; a dead one's never run, as with kill -9: no `finally` of a task runs either.
"""

import asyncio
import contextvars
import itertools
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

MACHINE: contextvars.ContextVar["Machine | None"] = contextvars.ContextVar("machine", default=None)


class Deadlock(Exception):
    """Nothing is scheduled: a liveness bug, not a hang."""


class TooManySteps(Exception):
    """More callbacks than a run may take: something spins."""


class Task(asyncio.Task):
    """Hashed by its number: asyncio iterates over sets of tasks, and the order of addresses is nobody's seed."""

    numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.number = next(Task.numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.number


def _nothing() -> None:
    pass


class Handle:
    """A callback that a loop will run. asyncio's own cost a run of many seeds a fifth of its time: they look for a debugging loop, and where they were made."""

    __slots__ = ("args", "callback", "context", "gone", "when_s")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: Any, when_s: float) -> None:
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context
        self.when_s = when_s
        self.gone = False

    def cancel(self) -> None:
        self.gone = True
        # As asyncio does it: whoever keeps what it has cancelled is no cycle.
        self.callback, self.args = _nothing, ()

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self.when_s


class Machine:
    """A process on the loop: whatever runs in its context."""

    def __init__(self, loop: "SimLoop", name: str) -> None:
        self.name = name
        self.loop = loop
        loop.machines.append(self)
        self.context = contextvars.copy_context()
        self.context.run(MACHINE.set, self)
        self.frozen: list[Handle] | None = None
        self.alive = True

    def freeze(self) -> None:
        if self.frozen is None:
            self.frozen = []

    def thaw(self) -> None:
        if self.frozen is not None:
            handles, self.frozen = self.frozen, None
            self.loop._ready.extend(handles)

    def call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Run it there, as something that came in from outside."""
        self.loop.call_soon(callback, *args, context=self.context)

    def kill(self) -> None:
        self.alive = False
        self.freeze()


class SimLoop(asyncio.BaseEventLoop):
    """Seconds since the start of the run; deterministic for equal calls."""

    def __init__(self, *, max_steps: int = 5_000_000) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self.max_steps = max_steps
        self.errors: list[str] = []
        self.machines: list[Machine] = []
        self._clock_resolution = 1e-9
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = itertools.count()
        self._outside = contextvars.Context()
        Task.numbers = itertools.count()
        self.set_task_factory(lambda loop, coro, **kwargs: Task(coro, loop=loop, **kwargs))
        self.set_exception_handler(self._failed)

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {error!r}")

    # What BaseEventLoop asks of a loop

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Handle:
        handle = Handle(callback, args, context, self.now)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Handle:
        handle = Handle(callback, args, context, when)
        heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Handle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def at(self, when: float, callback: Callable[..., Any], *args: Any) -> None:
        """Something that happens outside all machines, whoever asks for it."""
        self.call_at(when, callback, *args, context=self._outside)

    def later(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        """See `at`."""
        self.call_at(self.now + delay, callback, *args, context=self._outside)

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: Any) -> None:
        pass

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].gone:
            heappop(timers)
        if not ready:
            if not timers:
                raise Deadlock
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            ready.append(heappop(timers)[2])
        count = len(ready)
        self.steps += count
        if self.steps > self.max_steps:
            raise TooManySteps
        get, popleft = contextvars.Context.get, ready.popleft
        for _ in range(count):
            handle = popleft()
            if handle.gone:
                continue
            machine = get(handle.context, MACHINE)
            if machine is not None and machine.frozen is not None:
                machine.frozen.append(handle)
                continue
            try:
                handle.context.run(handle.callback, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.errors.append(f"in {handle.callback}: {error!r}")

    def finish(self) -> None:
        """Cancel whatever is left, on dead and frozen machines too, and close."""
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.number)
        for machine in self.machines:
            machine.thaw()
        for task in tasks:
            task.cancel()
        self.errors.clear()
        self.max_steps = self.steps + 1_000_000
        for _ in range(200):
            if all(task.done() for task in tasks):
                break
            self.call_soon(lambda: None)
            self.stop()
            self.run_forever()
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
        self._ready.clear()
        self._timers.clear()
        self.close()
