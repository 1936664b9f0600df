"""Sidecars when something breaks: schedulers that restart, die and are replaced, apps that die, hang and fail, sidecars that are killed at work.

Nothing may be lost; what may come twice is what was in flight when somebody was killed.
"""

import asyncio
import threading
from collections import Counter
from pathlib import Path

import pytest

from scheduler._pb.dapr.proto.runtime.v1 import dapr_pb2, jobs_pb2
from tests.conftest import Cluster
from tests.support.apps import HttpApp, Told
from tests.support.processes import Replica, Sidecar, wait_until
from tests.support.sidecars import RunningSidecar, http_call, running_sidecar, until

pytestmark = pytest.mark.e2e


async def schedule(sidecar: RunningSidecar, name: str, **job) -> None:
    await sidecar.grpc("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=jobs_pb2.Job(name=name, **job)))


async def hosts_of(sidecar: RunningSidecar) -> list[str]:
    answer = await sidecar.grpc("GetMetadata", dapr_pb2.GetMetadataRequest())
    return sorted(dapr_pb2.GetMetadataResponse.FromString(answer).scheduler.connected_addresses)


async def fires_again(app: HttpApp, names: set[str], timeout_s: float = 20.0) -> None:
    """Each of these jobs, from now on."""
    before = len(app.told)
    await until(lambda: names <= set(app.names[before:]), timeout_s)


async def test_streaming_reconnect_and_hostsreload_recovery(cluster) -> None:
    """The only scheduler is stopped, once killed and once in order, and comes back on the same data."""
    one: Cluster = cluster(1)
    replica = one.replicas[0]
    app = HttpApp()
    async with running_sidecar(replica.address, app_port=app.port) as sidecar:
        await schedule(sidecar, "test", schedule="@every 500ms")
        await fires_again(app, {"test"})
        for stop in (replica.kill, replica.terminate):
            await asyncio.to_thread(stop)
            before = len(app.told)
            await asyncio.sleep(1)
            assert len(app.told) == before
            replica.start()
            await fires_again(app, {"test"})

        async def scheduled() -> None:
            # The sidecar waits by itself for a scheduler that is ready.
            await schedule(sidecar, "once", due_time="0s")

        async with asyncio.timeout(60):
            await scheduled()
        await until(lambda: app.names.count("once") == 1)
        await fires_again(app, {"test"})
        assert app.names.count("once") == 1
    app.close()


async def test_three_schedulers_one_killed_and_replaced(cluster, tmp_path: Path) -> None:
    """metadata/scheduler cluster and reconnect, loadbalance/clusters, streaming/reconnect3 and reconnect4; the given address is the one that dies."""
    three: Cluster = cluster(3)
    apps = [HttpApp() for _ in range(3)]
    victim = three.replicas[0]
    async with (
        running_sidecar(victim.address, app_port=apps[0].port) as sidecar,
        running_sidecar(*three.addresses, app_port=apps[1].port),
        running_sidecar(three.replicas[1].address, app_port=apps[2].port),
    ):
        await until(lambda: hosts_match(sidecar, three.addresses))
        names = {f"test{number}" for number in range(5)}
        for name in names:
            await schedule(sidecar, name, schedule="@every 200ms")
        await until(lambda: all(app.told for app in apps), 20)
        await asyncio.to_thread(victim.kill)
        await until(lambda: hosts_match(sidecar, three.addresses), 30)
        assert len(three.addresses) == 2
        await until(lambda: names <= set(apps[0].names + apps[1].names + apps[2].names))
        before = [len(app.told) for app in apps]
        await until(
            lambda: names <= {name for app, skip in zip(apps, before, strict=True) for name in app.names[skip:]}, 20
        )
        await schedule(sidecar, "meanwhile", due_time="0s")
        replacement = Replica("replica-9", tmp_path / "replica-9", three.etcd.endpoint).start()
        three.replicas.append(replacement)
        await until(lambda: hosts_match(sidecar, three.addresses), 40)
        assert len(three.addresses) == 3
        before = [len(app.told) for app in apps]
        await until(
            lambda: names <= {name for app, skip in zip(apps, before, strict=True) for name in app.names[skip:]}, 20
        )
        assert sum(app.names.count("meanwhile") for app in apps) == 1
    for app in apps:
        app.close()


async def hosts_match(sidecar: RunningSidecar, addresses: list[str]) -> bool:
    return await hosts_of(sidecar) == sorted(addresses)


async def test_an_app_that_dies_and_returns_gets_what_it_missed(shared, app_id) -> None:
    """Cut in the middle of a call, away for a while, back: every job arrives, with its retries for ever."""
    hang = threading.Event()
    app = HttpApp(lambda _told: 200 if hang.wait(20) else 500)
    policy = {"constant": {"interval": {"nanos": 200_000_000}}}
    async with running_sidecar(*shared.addresses, app_id=app_id, app_port=app.port) as sidecar:
        for number in range(20):
            await schedule(sidecar, f"test{number}", due_time="0s", failure_policy=policy)
        await until(lambda: len(app.told) == 20)
        app.close()
        hang.set()
        died = len(app.told)
        await schedule(sidecar, "meanwhile", due_time="0s", failure_policy=policy)
        await asyncio.sleep(0.5)
        app.start()
        await gone(sidecar)
        after = Counter(app.names[died:])
        assert after == Counter([f"test{number}" for number in range(20)] + ["meanwhile"])
    app.close()


async def gone(sidecar: RunningSidecar, timeout_s: float = 20.0) -> None:
    async def none_left() -> bool:
        return not jobs_pb2.ListJobsResponse.FromString(await sidecar.grpc("ListJobs", jobs_pb2.ListJobsRequest())).jobs

    await until(none_left, timeout_s)


async def test_an_app_that_never_answers_holds_only_its_own_job(shared, app_id) -> None:
    hang = threading.Event()
    app = HttpApp(lambda told: 200 if told.name != "stuck" or hang.wait(60) else 500)
    async with running_sidecar(*shared.addresses, app_id=app_id, app_port=app.port) as sidecar:
        await schedule(sidecar, "stuck", schedule="@every 100ms")
        for number in range(50):
            await schedule(sidecar, f"test{number}", due_time="0s")
        await until(lambda: len(app.told) == 51)
        await asyncio.sleep(0.5)
        assert app.names.count("stuck") == 1, "the next occurrence waits for this one's answer"
        await sidecar.grpc("DeleteJob", jobs_pb2.DeleteJobRequest(name="stuck"))
        hang.set()
        await gone(sidecar)
    app.close()


def test_a_sidecar_killed_with_triggers_in_flight(shared, app_id, tmp_path: Path) -> None:
    """Another sidecar of the app gets what was in flight, at once and once; nothing that had been answered comes again."""
    hang = threading.Event()

    def answer(told: Told) -> int:
        if told.name.startswith("held") and not hang.is_set():
            hang.wait(20)
        return 200

    app = HttpApp(answer)
    arguments = [f"--app-id={app_id}", f"--app-port={app.port}"]
    first = Sidecar(tmp_path / "first", shared.addresses, *arguments).start()
    try:
        for number in range(30):
            name = "quick" if number < 15 else "held"
            assert http_call(first.http_port, "POST", f"/v1.0/jobs/{name}{number}", {"dueTime": "0s"}).status == 204
        app.wait(30)

        # Whatever has been answered is committed and gone before the kill.
        def client_names():
            return {key.rpartition("|")[2] for key in shared.reader.range("/scheduler/jobs/") if app_id in key}

        wait_until(lambda: len(client_names()) == 15, timeout_s=30, what="the quick ones are done")
        second = Sidecar(tmp_path / "second", shared.addresses, *arguments).start()
        first.kill()
        app.wait(45)
        hang.set()
        wait_until(lambda: not client_names(), timeout_s=30, what="all are done")
        times = Counter(app.names)
        assert {name: count for name, count in times.items() if name.startswith("quick")} == {
            f"quick{number}": 1 for number in range(15)
        }
        assert {name: count for name, count in times.items() if name.startswith("held")} == {
            f"held{number}": 2 for number in range(15, 30)
        }
        assert second.terminate() == 0
        second.close()
    finally:
        first.close()
        app.close()


def test_a_sidecar_stopped_in_order_doubles_nothing(shared, app_id, tmp_path: Path) -> None:
    """SIGTERM in the middle of a stream of jobs, with another sidecar of the app beside it."""
    app = HttpApp(lambda _told: 200 if not pause.wait(0.05) else 500)
    pause = threading.Event()
    arguments = [f"--app-id={app_id}", f"--app-port={app.port}"]
    first = Sidecar(tmp_path / "first", shared.addresses, *arguments).start()
    second = Sidecar(tmp_path / "second", shared.addresses, *arguments).start()
    try:
        for number in range(200):
            if number == 100:
                assert first.terminate() == 0
            assert http_call(second.http_port, "POST", f"/v1.0/jobs/test{number}", {"dueTime": "0s"}).status == 204
        app.wait(200)
        assert second.terminate() == 0
        assert Counter(app.names) == {f"test{number}": 1 for number in range(200)}
    finally:
        first.close()
        second.close()
        app.close()
