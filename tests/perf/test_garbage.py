"""Nothing that ends waits for the collector: it looks at what has stayed only once, so a cycle that is left behind would be left for ever."""

import asyncio
import gc
from collections import Counter
from types import FrameType

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.aio.garbage import Garbage
from scheduler.http2.server import Server
from scheduler.replica import Replica
from tests.http2.wire import data, headers
from tests.perf.budget import PRODUCT, Sidecar, World
from tests.support.client import job_metadata

_CONNECTIONS = 20


def product_name(one: object) -> str | None:
    """What it is, if it is the product's: the model of etcd makes its own cycles."""
    if isinstance(one, FrameType):
        code = one.f_code
        return f"frame of {code.co_qualname}" if code.co_filename.startswith(PRODUCT) else None
    kind = type(one)
    return (
        kind.__qualname__
        if kind.__module__.startswith("scheduler.") and kind.__module__ != "scheduler.etcd.api"
        else None
    )


async def connect_and_leave(server: Server, number: int) -> None:
    """All kinds of calls, good and bad, and a stream with a trigger in flight; then the connection is lost."""
    sidecar = Sidecar(server)
    sidecar.watch("app")
    metadata = job_metadata(app_id="app")
    name = f"job-{number}"
    once = pb.ScheduleJobRequest(name=name, metadata=metadata, job=pb.Job(due_time="1s"))
    bad = pb.ScheduleJobRequest(name=name, metadata=metadata, job=pb.Job(due_time="nonsense"))
    for method, message in (
        ("ScheduleJob", once),
        ("ScheduleJob", once),
        ("ScheduleJob", bad),
        ("GetJob", pb.GetJobRequest(name=name, metadata=metadata)),
        ("GetJob", pb.GetJobRequest(name="none", metadata=metadata)),
        ("ListJobs", pb.ListJobsRequest(metadata=metadata)),
        ("DeleteJob", pb.DeleteJobRequest(name="none", metadata=metadata)),
        ("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(name_prefix="none", metadata=metadata)),
        ("NoSuchMethod", once),
    ):
        sidecar.send(sidecar.call(method, message))
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.5)
    ids = sidecar.triggers()
    assert ids
    sidecar.send(sidecar.answers(ids[:-1]))
    sidecar.send(headers(sidecar.next_stream) + data(sidecar.next_stream, b"\0\0\0\0\5half"))
    sidecar.shell.connection_lost(None if number % 2 else ConnectionResetError("gone"))
    await asyncio.sleep(0.5)


def test_connections_calls_and_triggers_leave_no_cycles() -> None:
    found: list[str] = []

    async def work(_world: World, replica: Replica) -> None:
        server = Server(methods=replica.methods())
        for number in range(3):  # caches fill
            await connect_and_leave(server, number)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for number in range(_CONNECTIONS):
                await connect_and_leave(server, number)
            gc.collect()
            found.extend(named for one in gc.garbage if (named := product_name(one)))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    World().run(work)
    left = Counter(found)
    assert sum(left.values()) < _CONNECTIONS, "\n".join(map(str, left.most_common(60)))


def test_what_stays_is_frozen_and_pauses_are_told() -> None:
    pauses: list[float] = []
    thresholds = gc.get_threshold()
    garbage = Garbage(pauses.append)
    try:
        garbage.install()
        frozen, collections = gc.get_freeze_count(), len(pauses)
        kept = [[number] for number in range(10_000)]
        garbage.kept(100)
        assert gc.get_freeze_count() <= frozen
        garbage.kept(len(kept))
        assert gc.get_freeze_count() >= frozen + len(kept) and len(pauses) > collections
    finally:
        garbage.uninstall()
        gc.unfreeze()
        gc.set_threshold(*thresholds)
