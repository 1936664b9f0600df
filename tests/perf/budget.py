"""What a create, a trigger and an idle job cost, in figures that noise cannot move: calls of functions, requests to etcd, bytes.

A whole replica runs on virtual time, from the bytes that a client sends to the bytes that it gets, against the model of etcd. Calls are counted in the
product's own code: its Python functions, and the built-in ones that it calls. `tests/perf/budget.json` keeps the figures by Python version: a figure
above it fails (test_budget.py); `scripts/budget` shows them, `scripts/budget --update` writes those that have become smaller, and `--accept` all.
"""

import asyncio
import gc
import json
import random
import sys
import tracemalloc
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.app import _take_part
from scheduler.config import ServeSettings
from scheduler.http2 import frames
from scheduler.http2.grpc import frame_message
from scheduler.http2.headers import encode_block
from scheduler.http2.server import Server
from scheduler.metrics import IdentityStatistics
from scheduler.replica import Replica
from tests.http2.wire import connected, data, fields, headers
from tests.perf.records import idle_records
from tests.sim.loop import Machine, SimLoop
from tests.sim.model import Model
from tests.sim.server import Client as Etcd
from tests.sim.server import Server as EtcdServer
from tests.support.client import SERVICE, job_metadata

FILE = Path(__file__).with_name("budget.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PRODUCT = str(Path(__file__).resolve().parents[2] / "scheduler") + "/"
_START_NS = 1_764_000_000_000_000_000
_JOBS = 500
_ROUNDS = 5
_IDLE_JOBS = 20_000
_PAYLOAD_BYTES = 100

# What the cluster does in the background costs the same however many triggers there are.
_BACKGROUND = (f"{PRODUCT}cluster/", f"{PRODUCT}core/partitions.py")

Tamper = Callable[[Replica], None]


class _Clock:
    """Virtual time."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop

    def wall_ns(self) -> int:
        return _START_NS + int(self.loop.now * 1e9)

    def boottime_s(self) -> float:
        return self.loop.now


class _NoLeaseFile:
    def read(self) -> int:
        return 0

    def write(self, lease_id: int) -> None:
        pass


class Costs:
    """What has been counted while `counting`."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.requests = 0

    def _profile(self, frame: Any, event: str, _argument: object) -> None:
        if event in {"call", "c_call"}:
            file = frame.f_code.co_filename
            if file.startswith(PRODUCT) and not file.startswith(_BACKGROUND):
                self.calls[event] += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        gc.disable()  # what a collection finds are other tests' objects
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            gc.enable()

    def per(self, name: str, count: int) -> dict[str, float]:
        return {
            f"{name}: Python functions called": round(self.calls["call"] / count, 2),
            f"{name}: built-in functions called": round(self.calls["c_call"] / count, 2),
            f"{name}: requests to etcd": round(self.requests / count, 4),
        }


@contextmanager
def _not_counted() -> Iterator[None]:
    """What the test does itself."""
    profile = sys.getprofile()
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(profile)


class Sidecar:
    """The far end of one connection to the replica."""

    def __init__(self, server: Server) -> None:
        self.shell = connected(server)
        self.shell.data_received(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}))
        self.next_stream = 1
        self.rest = b""

    @_not_counted()
    def call(self, method: str, message: Any) -> bytes:
        """The bytes of one unary call."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        block = encode_block(fields(f"{SERVICE}/{method}"))
        body = frame_message(message.SerializeToString())
        return headers(stream, block=block) + data(stream, body, frames.END_STREAM)

    def watch(self, app_id: str) -> None:
        self.stream, self.next_stream = self.next_stream, self.next_stream + 2
        initial = pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id=app_id, namespace="default"))
        block = encode_block(fields(f"{SERVICE}/WatchJobs"))
        self.send(headers(self.stream, block=block) + data(self.stream, frame_message(initial.SerializeToString())))

    def send(self, chunk: bytes) -> None:
        self.shell.data_received(chunk)

    @_not_counted()
    def triggers(self) -> list[int]:
        """The ids of the triggers that have come."""
        return [trigger.id for trigger in self.received()]

    @_not_counted()
    def received(self) -> list[pb.WatchJobsResponse]:
        """The triggers that have come."""
        frames_ = self.shell.transport.taken()
        body = self.rest + b"".join(
            chunk for kind, stream, chunk in frames_ if kind == frames.DATA and stream == self.stream
        )
        triggers = []
        while len(body) >= 5 and len(body) >= 5 + (size := int.from_bytes(body[1:5], "big")):
            triggers.append(pb.WatchJobsResponse.FromString(body[5 : 5 + size]))
            body = body[5 + size :]
        self.rest = body
        return triggers

    @_not_counted()
    def answers(self, ids: list[int]) -> bytes:
        """A frame of its own for each, as real sidecars do."""
        results = [pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=one, status=pb.SUCCESS)) for one in ids]
        return b"".join(data(self.stream, frame_message(result.SerializeToString())) for result in results)


def _nothing(_replica: Replica) -> None:
    pass


class World:
    """A replica, an etcd, virtual time."""

    def __init__(self) -> None:
        self.loop = SimLoop()
        self.model = Model()
        self.server = EtcdServer(self.loop, random.Random(1), self.model)

    def run(self, work: Callable[["World", Replica], Coroutine[Any, Any, None]], tamper: Tamper = _nothing) -> None:
        """Run `work` beside a replica that owns everything."""
        machine = Machine(self.loop, "measured")
        asyncio.set_event_loop(self.loop)
        try:
            task = machine.context.run(self.loop.create_task, self._run(machine, work, tamper))
            self.loop.run_until_complete(task)
        finally:
            self.loop.finish()
            asyncio.set_event_loop(None)

    async def _run(self, machine: Machine, work: Callable[["World", Replica], Any], tamper: Tamper) -> None:
        settings = ServeSettings(id="measured", etcd_embed=False, etcd_client_endpoints=("model",))
        clock, etcd = _Clock(self.loop), Etcd(self.server, machine)
        replica = Replica(
            settings,
            etcd,
            "measured:1",
            _NoLeaseFile(),
            IdentityStatistics(),
            clock=clock,
            rng=random.Random(2),  # type: ignore[arg-type]
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(one) for one in (replica.store.run(), replica.engine.run(), _take_part(replica, stop))
            ]
            while len(replica.engine.partitions) < settings.partitions:
                await asyncio.sleep(0.1)
            await asyncio.sleep(2)
            tamper(replica)
            await work(self, replica)
            for one in running:
                one.cancel()


def measure_paths(tamper: Tamper = _nothing) -> dict[str, float]:
    """What a create and a trigger cost: a one-shot from due to deleted, and an occurrence of a recurring job from due to committed."""
    figures: dict[str, float] = {}

    async def work(world: World, replica: Replica) -> None:
        sidecar = Sidecar(Server(methods=replica.methods()))
        sidecar.watch("app")
        await asyncio.sleep(1)

        async def cost_of(name: str, count: int, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
            costs = Costs()

            def heard(_label: str, when: str, _client: Etcd) -> None:
                costs.requests += when == "before"

            await asyncio.sleep(1)
            # Without the lease's keepalives, which cost the same however much is done.
            world.server.step = lambda label, when, client: heard(label, when, client) if "lease" not in label else None
            with costs.counting():
                await step()
            world.server.step = lambda *_: None
            figures.update(costs.per(name, count))

        async def create(prefix: str, **job: str) -> None:
            request = pb.ScheduleJobRequest(metadata=job_metadata(app_id="app"), job=pb.Job(**job))
            for first in range(0, _JOBS, 50):
                calls = []
                for number in range(first, first + 50):
                    request.name = f"{prefix}-{number}"
                    calls.append(sidecar.call("ScheduleJob", request))
                sidecar.send(b"".join(calls))
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            assert replica.rpc_statistics.created[0] % _JOBS == 0, replica.rpc_statistics.created

        async def fire(rounds: int) -> None:
            for _ in range(rounds):
                ids: list[int] = []
                while len(ids) < _JOBS:
                    await asyncio.sleep(0.01)
                    ids += sidecar.triggers()
                for first in range(0, _JOBS, 100):
                    sidecar.send(sidecar.answers(ids[first : first + 100]))
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.5)

        def until(second: float) -> Coroutine[Any, Any, None]:
            return asyncio.sleep(max(0.0, second - world.loop.now))

        due = int(world.loop.now) + 60
        await cost_of("create", _JOBS, lambda: create("once", due_time=_rfc3339(due)))
        await until(due - 2)
        await cost_of("one-shot, from due to deleted", _JOBS, lambda: fire_and_delete(fire))
        assert replica.engine.job_count() == 0
        first = int(world.loop.now) + 10
        await create("every", due_time=_rfc3339(first), schedule="@every 10s")
        await until(first - 2)
        await cost_of("recurring trigger, from due to committed", _JOBS * _ROUNDS, lambda: fire(_ROUNDS))
        assert replica.engine_statistics.succeeded[0] == _JOBS * (_ROUNDS + 1)

    async def fire_and_delete(fire: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        await fire(1)
        await asyncio.sleep(2)

    World().run(work, tamper)
    return figures


def _rfc3339(second: int) -> str:
    return datetime.fromtimestamp(_START_NS // 10**9 + second, UTC).isoformat().replace("+00:00", "Z")


def measure_idle() -> dict[str, float]:
    """What an idle job adds to the memory of the replica that loads it."""
    world = World()
    taken = {}

    async def work(_world: World, replica: Replica) -> None:
        assert replica.engine.job_count() == _IDLE_JOBS
        # What the model shares with the replica is the replica's alone, as it is where etcd is another process.
        model = world.model
        model.kvs, model.log, model._keys, model._past = {}, [], [], {}
        del puts[:]
        gc.collect()
        with_jobs = tracemalloc.get_traced_memory()[0]
        for partition in list(replica.engine.partitions):
            await replica.engine.release(partition)
        replica.engine.timers = type(replica.engine.timers)(_START_NS)
        gc.collect()
        taken["bytes"] = with_jobs - tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    puts = list(idle_records(_IDLE_JOBS, _PAYLOAD_BYTES, _START_NS, random.Random(3)))
    for put in puts:
        world.model.txn((), (put,))
    del put
    try:
        world.run(work, _nothing)
    finally:
        tracemalloc.stop()
    return {"idle job: bytes besides its payload": round(taken["bytes"] / _IDLE_JOBS - _PAYLOAD_BYTES)}


def budget() -> dict[str, float] | None:
    """The figures kept for this version of Python; None: there are none."""
    kept: dict[str, dict[str, float]] = json.loads(FILE.read_text())
    return kept.get(PYTHON)


def exceeded(measured: dict[str, float], allowed: dict[str, float]) -> list[str]:
    """The figures that are above what is allowed, each with a sentence."""
    return [
        f"{name}: {value} now, {allowed.get(name, 0)} in {FILE.name}"
        for name, value in measured.items()
        if value > allowed.get(name, 0)
    ]


def main() -> None:
    """The command."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the figures that have become smaller")
    parser.add_argument("--accept", action="store_true", help="write all figures; the commit says why")
    arguments = parser.parse_args()
    measured = {**measure_paths(), **measure_idle()}
    allowed = budget() or {}
    for name, value in measured.items():
        print(f"{name}: {value} (budget {allowed.get(name)})")
    if arguments.update or arguments.accept:
        kept = json.loads(FILE.read_text()) if FILE.exists() else {}
        kept[PYTHON] = {
            name: value if arguments.accept else min(value, allowed.get(name, value))
            for name, value in measured.items()
        }
        FILE.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
