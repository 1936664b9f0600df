"""Replicas as `scheduler serve` makes them, each on a machine of the virtual loop, with a clock of its own and an etcd client that goes through the model."""

import asyncio
import random
from typing import Any

from scheduler.app import _take_part
from scheduler.config import ServeSettings
from scheduler.metrics import IdentityStatistics
from scheduler.replica import Replica
from tests.sim.checker import NS, Checker
from tests.sim.loop import Machine, SimLoop
from tests.sim.server import Client, Server

WALL_START_S = 1_700_000_040  # a whole minute


class Clock:
    """A machine's clocks: the wall clock steps and drifts, boot time does not."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.step_ns = 0
        self.drift = 0.0
        self._before: list[tuple[float, int]] = []  # when it was set, and what it showed until then

    def set(self, step_s: float, drift: float) -> None:
        now_ns = self.wall_ns()
        self._before.append((self.loop.now, now_ns))
        self.drift = drift
        self.step_ns += now_ns + int(step_s * NS) - self.wall_ns()

    def highest_ns(self, since_s: float) -> int:
        """The latest time that it has shown since: what was due once may be fired, though the clock has been put back."""
        return max([self.wall_ns(), *(wall_ns for at_s, wall_ns in self._before if at_s >= since_s)])

    def wall_ns(self) -> int:
        return int(self.loop.now * (1.0 + self.drift) * NS) + WALL_START_S * NS + self.step_ns

    def boottime_s(self) -> float:
        return self.loop.now


class LeaseFile:
    """What lies on a machine's disk."""

    def __init__(self) -> None:
        self.lease = 0

    def read(self) -> int:
        return self.lease

    def write(self, lease_id: int) -> None:
        self.lease = lease_id


class Host:
    """A replica's name, and the processes that have it one after the other."""

    def __init__(
        self, *, name: str, loop: SimLoop, server: Server, checker: Checker, rng: random.Random, settings: ServeSettings
    ) -> None:
        self.name = name
        self.loop = loop
        self.server = server
        self.checker = checker
        self.rng = rng
        self.settings = settings
        self.clock = Clock(loop)
        self.lease_file = LeaseFile()
        self.running = False
        self.stopping = False
        self.troubles = 0
        self.calm_since_s = 0.0
        self.thawed_s = 0.0
        self.machine: Machine
        self.client: Client
        self.replica: Replica
        self.incarnation = 0

    # Trouble: while a fault touches this host, and for a while afterwards, it may be late

    def begin_trouble(self) -> None:
        self.troubles += 1

    def end_trouble(self) -> None:
        self.troubles -= 1
        self.calm_since_s = self.loop.now

    def calm_for_s(self) -> float:
        return 0.0 if self.troubles else self.loop.now - self.calm_since_s

    # Processes

    def step(self, what: str, when: str) -> None:
        self.server.step(what, when, self.client)

    def boot(self) -> None:
        self.running, self.stopping = True, False
        self.calm_since_s = self.loop.now
        self.machine = Machine(self.loop, self.name)
        self.client = Client(self.server, self.machine)
        self.machine.context.run(self._make)
        self.incarnation = self.client.incarnation = self.replica.cluster._member.incarnation
        self.checker.log("boot", self.name)

    def _make(self) -> None:
        self.stop = asyncio.Event()
        self.replica = Replica(
            self.settings,
            self.client,  # type: ignore[arg-type]
            self.name,
            self.lease_file,  # type: ignore[arg-type]
            IdentityStatistics(),
            clock=self.clock,
            rng=self.rng,
        )
        hub, process = self.replica.hub, _Process(self)
        encode, settle, checker, machine = hub._encode, hub._settle, self.checker, self.machine

        def observed_encode(job: Any, delivery_id: int) -> bytes:
            stream = next(
                one for one in hub._streams if one.in_flight.get(delivery_id) is job and one.last_id == delivery_id
            )
            stream.outlet.hub_stream = stream
            self.step("fire", "before")
            if machine.alive:
                checker.fire(process, job, stream.outlet)
                self.step("fire", "after")
            return encode(job, delivery_id)

        def observed_settle(job: Any, succeeded: bool) -> None:
            self.step("acknowledge", "before")
            if machine.alive:
                checker.taken(process, job, succeeded)
            settle(job, succeeded)
            self.step("acknowledge", "after")

        hub._encode, hub._settle = observed_encode, observed_settle
        self.process = process
        task = self.loop.create_task(self._serve(self.machine, self.replica, self.stop), name=self.name)
        task.add_done_callback(lambda task: self._ended(task, process))

    @staticmethod
    async def _serve(machine: Machine, replica: Replica, stop: asyncio.Event) -> None:
        """As scheduler.app does."""
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(replica.store.run(), name="store"),
                tasks.create_task(replica.engine.run(), name="engine"),
                tasks.create_task(_take_part(replica, stop), name="cluster"),
                tasks.create_task(replica.watchdog.run(), name="watchdog"),
            ]
            await stop.wait()
            await replica.cluster.drain(replica.settings.drain_timeout_s)
            replica.leaving = True
            for task in work:
                task.cancel()

    def _ended(self, task: "asyncio.Task[None]", process: "_Process") -> None:
        if task.cancelled() or process is not self.process:
            return
        error = task.exception()
        if error is not None:
            self.checker.fail("crash", f"{self.name} ends by itself: {_flat(error)}")
        else:
            self.gone("stopped")

    def gone(self, how: str) -> None:
        """The process is no more."""
        self.running = self.stopping = False
        self.checker.log(how, self.name)
        self.machine.kill()
        self.server.clients.remove(self.client)

    def crash(self) -> None:
        if self.running:
            self.gone("crash")

    def drain(self) -> None:
        """SIGTERM."""
        if self.running and not self.stopping:
            self.stopping = True
            self.checker.log("sigterm", self.name)
            self.machine.call(self.stop.set)


class _Process:
    """One process of a host, as the checker knows it: a later one must not answer for it."""

    __slots__ = ("calm_for_s", "client", "clock", "incarnation", "name", "settings")

    def __init__(self, host: Host) -> None:
        self.name = host.name
        self.client = host.client
        self.clock = host.clock
        self.settings = host.settings
        self.calm_for_s = host.calm_for_s
        self.incarnation = host.replica.cluster._member.incarnation


def _flat(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(_flat(one) for one in error.exceptions)
    return repr(error)
