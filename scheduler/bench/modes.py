"""What the bench does: create, storm, every, idle, mixed, fair. Each mode cleans up what it made, also when it is interrupted."""

import asyncio
import multiprocessing
import signal
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from multiprocessing.connection import Connection
from typing import NamedTuple

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.aio.clock import Clock, SystemClock
from scheduler.bench.load import Connect, Due, Load, Settings
from scheduler.bench.report import Processes, Result, histogram, quantiles
from scheduler.http2.grpc import RpcError, Status

_S = 1_000_000_000
# Where nobody says how long creating takes, so many jobs tell; it is given twice as long, and some seconds.
_TRIAL_JOBS = 500
_LEAD_S = 3.0
_STORM_PATIENCE_S = 120.0
# How long after the end of listening what was due by then may still come; later, it is missing.
_GRACE_S = 30.0
_IDLE = "8760h"
# What the quiet app has beside the storm: jobs that fire each second, calls per second of each kind, and seconds before and after.
_QUIET_JOBS = 300
_QUIET_CALLS_PER_S = 100.0
_QUIET_LEAD_S, _QUIET_AFTER_S = 4, 5
_CHILD_STOP_S = 60.0


class Plan(NamedTuple):
    """What to do."""

    jobs: int
    seconds: float
    spread_s: float
    lead_s: float | None
    creates_per_s: float
    deletes_per_s: float
    lists_per_s: float
    answered: bool = True
    # When the storm is due; 0: once its jobs are created.
    at_ns: int = 0


class Bench:
    """Runs modes against one server."""

    def __init__(self, *, load: Load, plan: Plan, processes: Processes, run: str, say: Callable[[str], None]) -> None:
        """`run` begins the name of every job; `say` shows progress."""
        self._load = load
        self._plan = plan
        self._processes = processes
        self._run = run
        self._say = say
        self._due: Due | None = None
        self._prefix = ""

    def arrived(self, trigger: pb.WatchJobsResponse) -> None:
        """A trigger has come, of this mode or of an earlier one."""
        if self._due is not None and trigger.name.startswith(self._prefix):
            self._due.came(int(trigger.name[len(self._prefix) :]), self._load.clock.wall_ns())

    async def run(self, mode: str) -> Result:
        """One mode. Raises RpcError."""
        work: dict[str, Callable[[Result], Awaitable[None]]] = {
            "create": self._create, "storm": self._storm, "every": self._every, "idle": self._idle, "mixed": self._mixed,
            "fair": self._fair,
        }  # fmt: skip
        self._prefix = f"{self._run}-{mode}-"
        result = Result(mode=mode, parameters={"jobs": self._plan.jobs, "hosts": len(self._load.hosts)})
        lost = len(self._load.lost_streams)
        try:
            await work[mode](result)
        finally:
            self._due = None
            await self._load.delete_all(f"{self._run}-")
        result.faults["streams lost"] = len(self._load.lost_streams) - lost
        return result

    # The modes

    async def _create(self, result: Result) -> None:
        async with self._measured(result, "create", lambda: self._plan.jobs):
            latencies = await self._fill(lambda _: pb.Job(due_time=_IDLE))
        result.figures |= quantiles("create", latencies)

    async def _idle(self, result: Result) -> None:
        before = self._processes.memory_bytes()
        await self._fill(lambda _: pb.Job(due_time=_IDLE))
        await asyncio.sleep(1)
        if self._processes.pids:
            held = (self._processes.memory_bytes() - before) / self._plan.jobs
            result.figures["memory per idle job besides its payload (bytes)"] = held - self._load.settings.payload_bytes

    async def _storm(self, result: Result) -> None:
        plan = self._plan
        at_ns = plan.at_ns or await self._start_ns()
        due = self._due = Due([at_ns] * plan.jobs, 0)
        await self._fill(lambda _: pb.Job(due_time=_rfc3339(at_ns)))
        await self._until(at_ns)
        async with self._measured(result, "trigger", lambda: len(due.late_s)):
            end_ns = at_ns + int((_STORM_PATIENCE_S if plan.answered else plan.seconds) * _S)
            while len(due.late_s) < plan.jobs and self._load.clock.wall_ns() < end_ns:
                await asyncio.sleep(0.05)
                self._say(f"storm: {len(due.late_s):,} of {plan.jobs:,} triggers")
            # Repeated ones, and the deletion of what is finished; where somebody is watched beside us, for as long as that goes on.
            await asyncio.sleep(_QUIET_AFTER_S if plan.at_ns else 1)
        if not plan.answered:
            return
        await self._judge(result, due)
        for meaningless in ("triggers (per s)", "server CPU (cores)"):
            result.figures.pop(meaningless, None)
        if due.last_at_ns > due.first_at_ns:
            result.figures["triggers first to last (per s)"] = len(due.late_s) / (due.last_at_ns - due.first_at_ns) * _S

    async def _every(self, result: Result) -> None:
        due = await self._recurring(result)
        async with self._measured(result, "trigger", lambda: len(due.late_s)):
            await self._listen("every", due)
        await self._judge(result, due)

    async def _mixed(self, result: Result) -> None:
        plan = self._plan
        due = await self._recurring(result)
        result.parameters |= {
            "creates/s": plan.creates_per_s, "deletes/s": plan.deletes_per_s, "lists/s": plan.lists_per_s
        }  # fmt: skip
        load, other = self._load, f"{self._run}-other-"
        listed = pb.ListJobsRequest(
            metadata=pb.JobMetadata(
                namespace=load.settings.namespace, app_id=f"{self._run}-listed", target=load.metadata.target
            )
        )
        for number in range(100):
            request = pb.ScheduleJobRequest(name=f"{number}", job=pb.Job(due_time=_IDLE), metadata=listed.metadata)
            await load.unary("ScheduleJob", request.SerializeToString())
        names, made = (f"{other}{number}" for number in count()), deque[str]()

        async def create() -> None:
            name = next(names)
            await load.schedule(name, pb.Job(due_time=_IDLE))
            made.append(name)

        async def delete() -> None:
            # The oldest; where deletes are faster than creates, one that is not there.
            await load.delete(made.popleft() if made else f"{other}none")

        calls: dict[str, tuple[float, Callable[[], Awaitable[object]]]] = {
            "create": (plan.creates_per_s, create),
            "delete": (plan.deletes_per_s, delete),
            "list": (plan.lists_per_s, lambda: load.unary("ListJobs", listed.SerializeToString())),
        }
        made_calls = {name: list[_Call]() for name in calls}
        try:
            async with self._measured(result, "trigger", lambda: len(due.late_s)), asyncio.TaskGroup() as tasks:
                paced = [
                    tasks.create_task(_pace(rate, call, load.clock, made_calls[name]))
                    for name, (rate, call) in calls.items()
                    if rate
                ]
                await self._listen("mixed", due)
                for task in paced:
                    task.cancel()
        finally:
            every = pb.DeleteByMetadataRequest(metadata=listed.metadata)
            await load.unary("DeleteByMetadata", every.SerializeToString())
        await self._judge(result, due)
        for name, ended in made_calls.items():
            result.figures |= quantiles(name, [one.seconds for one in ended])
            result.figures[f"{name}s (per s)"] = len(ended) / plan.seconds

    async def _fair(self, result: Result) -> None:
        """A storm of another app, in a process of its own, and what our app has of it: the lateness of its triggers, the latency of its calls."""
        load, plan, clock = self._load, self._plan, self._load.clock
        at_ns = await self._start_ns(beside=_QUIET_JOBS) + _QUIET_LEAD_S * _S
        quiet = self._due = Due(
            [at_ns - _QUIET_LEAD_S * _S + _S * number // _QUIET_JOBS for number in range(_QUIET_JOBS)], _S
        )
        result.parameters |= {"quiet jobs": _QUIET_JOBS, "answered": float(plan.answered)}
        get = pb.GetJobRequest(name=f"{self._prefix}0", metadata=load.metadata).SerializeToString()
        names = (f"{self._prefix}{number}" for number in count(_QUIET_JOBS))
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: load.unary("GetJob", get),
            "create": lambda: load.schedule(next(names), pb.Job(due_time=_IDLE)),
        }
        seen = {name: list[_Call]() for name in calls}
        settings = load.settings._replace(app_id=f"{load.settings.app_id}-storm")
        async with _in_process(settings, load, plan._replace(at_ns=at_ns), self._run) as storm:
            jobs = (
                (f"{self._prefix}{number}", pb.Job(schedule="@every 1s", due_time=_rfc3339(first_ns)))
                for number, first_ns in enumerate(quiet.first_ns)
            )
            await load.create(jobs, lambda: None)
            await self._until(quiet.first_ns[0])
            async with asyncio.TaskGroup() as tasks:
                paced = [
                    tasks.create_task(_pace(_QUIET_CALLS_PER_S, call, clock, seen[name]))
                    for name, call in calls.items()
                ]
                while not storm.done():
                    self._say(f"fair: {(clock.wall_ns() - at_ns) / _S:.0f} s since the storm was due")
                    await asyncio.wait([storm], timeout=1)
                for task in paced:
                    task.cancel()
        over_ns = at_ns + int(storm.result().figures.get("lateness max (ms)", plan.seconds * 1e3) * 1e6)
        seen["lateness"] = [_Call(due_ns, late_s) for due_ns, late_s in zip(quiet.due_ns, quiet.late_s, strict=True)]
        for window, begin_ns, end_ns in (
            ("before", 0, at_ns),
            ("meanwhile", at_ns, over_ns),
            ("after", over_ns, over_ns + _QUIET_AFTER_S * _S),
        ):
            for name, ended in seen.items():
                within = [one.seconds for one in ended if begin_ns <= one.at_ns < end_ns]
                result.figures |= quantiles(f"{name} {window}", within)
        result.figures["storm first to last (s)"] = (over_ns - at_ns) / _S
        await self._judge(result, quiet)
        result.faults |= {f"the storm's {name}": faults for name, faults in storm.result().faults.items()}

    # What they share

    async def _start_ns(self, beside: int = 0) -> int:
        """When the first job is to be due: all are created by then."""
        lead_s = self._plan.lead_s
        if lead_s is None:
            count, began = min(_TRIAL_JOBS, self._plan.jobs), time.perf_counter()
            trial = ((f"{self._run}-trial-{number}", pb.Job(due_time=_IDLE)) for number in range(count))
            await self._load.create(trial, lambda: None)
            lead_s = _LEAD_S + 2 * (self._plan.jobs + beside) / count * (time.perf_counter() - began)
        return (self._load.clock.wall_ns() // _S + 1 + int(lead_s)) * _S

    async def _until(self, at_ns: int) -> None:
        """Wait until shortly before that time."""
        left_s = (at_ns - self._load.clock.wall_ns()) / _S
        if left_s < 0:
            raise TooSlow(
                f"creating {self._plan.jobs} jobs took {-left_s:.1f} s longer than they were to wait: give more with --lead"
            )
        self._say(f"waiting {left_s:.0f} s until the jobs are due")
        await asyncio.sleep(max(0.0, left_s - 0.2))

    async def _recurring(self, result: Result) -> Due:
        """Create jobs that fire each second, their due instants spread as the plan says."""
        at_ns, spread_ns = await self._start_ns(), int(self._plan.spread_s * _S)
        first = [
            at_ns + spread_ns * number // self._plan.jobs // 1_000_000 * 1_000_000 for number in range(self._plan.jobs)
        ]
        due = self._due = Due(first, _S)
        result.parameters |= {"seconds": self._plan.seconds, "spread (s)": self._plan.spread_s}
        await self._fill(lambda number: pb.Job(schedule="@every 1s", due_time=_rfc3339(first[number])))
        await self._until(at_ns)
        return due

    async def _fill(self, job: Callable[[int], pb.Job]) -> "array[float]":
        done = 0

        def told() -> None:
            nonlocal done
            done += 1
            if done % 1_000 == 0:
                self._say(f"{done:,} of {self._plan.jobs:,} jobs created")

        def jobs() -> Iterator[tuple[str, pb.Job]]:
            for number in range(self._plan.jobs):
                yield f"{self._prefix}{number}", job(number)

        return await self._load.create(jobs(), told)

    async def _listen(self, mode: str, due: Due) -> None:
        start_ns = due.first_ns[0]
        end_ns = start_ns + int(self._plan.seconds * _S)
        while (now_ns := self._load.clock.wall_ns()) < end_ns:
            self._say(
                f"{mode}: {(now_ns - start_ns) / _S:.0f} of {self._plan.seconds:.0f} s, {len(due.late_s):,} triggers"
            )
            await asyncio.sleep(min(1.0, (end_ns - now_ns) / _S))

    @asynccontextmanager
    async def _measured(self, result: Result, what: str, count: Callable[[], int]) -> AsyncIterator[None]:
        """Rate, and CPU of both sides, per thing done."""
        began, ours, theirs = time.perf_counter(), time.process_time(), self._processes.cpu_s()
        before = count() if what == "trigger" else 0
        yield
        seconds, done = time.perf_counter() - began, max(1, count() - before)
        result.figures[f"{what}s (per s)"] = done / seconds
        if self._processes.pids:
            server_s = self._processes.cpu_s() - theirs
            result.figures[f"server CPU per {what} (us)"] = server_s / done * 1e6
            result.figures["server CPU (cores)"] = server_s / seconds
        result.figures[f"client CPU per {what} (us)"] = (time.process_time() - ours) / done * 1e6

    async def _judge(self, result: Result, due: Due) -> None:
        """Wait for what is late, then count what was early, repeated or never came."""
        until_ns = self._load.clock.wall_ns()
        end_ns = until_ns + int(_GRACE_S * _S)
        while (missing := due.missing(until_ns)) and self._load.clock.wall_ns() < end_ns:
            self._say(f"{missing:,} triggers are late")
            await asyncio.sleep(0.5)
        result.figures |= quantiles("lateness", due.late_s)
        result.lateness = histogram(due.late_s)
        result.faults |= {"early or repeated": due.early, "missing": missing}


class TooSlow(Exception):
    """The plan cannot be carried out in its time."""


class _Call(NamedTuple):
    """When it began, and how long it took."""

    at_ns: int
    seconds: float


async def _pace(per_s: float, call: Callable[[], Awaitable[object]], clock: Clock, ended: list[_Call]) -> None:
    """Make a call that often until cancelled, whether or not the ones before are done."""
    loop = asyncio.get_running_loop()

    async def one() -> None:
        at_ns, began = clock.wall_ns(), loop.time()
        await call()
        ended.append(_Call(at_ns, loop.time() - began))

    next_s = loop.time()
    async with asyncio.TaskGroup() as tasks:
        while True:
            while next_s <= loop.time():
                tasks.create_task(one())
                next_s += 1 / per_s
            await asyncio.sleep(max(0.001, next_s - loop.time()))


@asynccontextmanager
async def _in_process(settings: Settings, load: Load, plan: Plan, run: str) -> AsyncIterator[asyncio.Future[Result]]:
    """A storm from another process, to the same server: one that shared our loop would delay what we measure. On leaving, it cleans up and ends."""
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_storm, args=(theirs, settings, load.connect, load.address, plan, run))
    outcome: asyncio.Future[Result] = loop.create_future()

    def told() -> None:
        loop.remove_reader(ours.fileno())
        try:
            result = ours.recv()
        except EOFError:
            result = (Status.ABORTED, "the storm's process has ended")
        if isinstance(result, Result):
            outcome.set_result(result)
        else:
            outcome.set_exception(TooSlow(result) if isinstance(result, str) else RpcError(*result))

    process.start()
    theirs.close()
    loop.add_reader(ours.fileno(), told)
    try:
        yield outcome
    finally:
        loop.remove_reader(ours.fileno())
        outcome.cancel()
        process.terminate()
        await asyncio.to_thread(process.join, _CHILD_STOP_S)
        ours.close()


def _storm(
    pipe: Connection, settings: Settings, connect: Connect, address: str, plan: Plan, run: str
) -> None:  # pragma: no cover - in a process of its own
    """The other process: its result, or what kept it from one, goes into the pipe."""

    async def work() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        load = Load(settings, SystemClock())
        load.answers = plan.answered
        bench = Bench(load=load, plan=plan, processes=Processes(()), run=run, say=lambda _text: None)
        async with load.opened(connect, address, bench.arrived):
            return await bench.run("storm")

    try:
        pipe.send(asyncio.run(work()))
    except TooSlow as error:
        pipe.send(str(error))
    except RpcError as error:
        pipe.send((error.status, error.message))
    except asyncio.CancelledError:
        pass


def _rfc3339(ns: int) -> str:
    seconds, nanos = divmod(ns, _S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanos // 1_000_000:03d}Z"
