"""The series behind the plots of docs/performance.md: what a trigger costs, and how late it is, as one thing grows.

`scripts/measure --plots` measures them, one run a point.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.bench.report import quantiles
from scheduler.upstream.schedulers import Schedulers
from scheduler.upstream.stream import Session
from tests.perf.clients import Run, Work, client_for
from tests.perf.idle import fill
from tests.perf.site import Site, cpu_s, running
from tests.support.client import job_metadata

LATE_50, LATE_99, CPU = "lateness p50 (ms)", "lateness p99 (ms)", "server CPU per trigger (us)"
_S = 1_000_000_000


class Series(NamedTuple):
    """One plot: points by what grows, and the figures that are drawn."""

    key: str
    title: str
    grows: str
    figures: tuple[str, ...]
    measure: Callable[[], Iterator[tuple[int, Run]]]


def by_load() -> Iterator[tuple[int, Run]]:
    """Jobs of `@every 1s`, spread over the second."""
    for jobs in (1_000, 2_000, 5_000, 10_000, 20_000):
        with running(1) as site:
            yield jobs, client_for("every").run(Work("every", jobs, 8, spread_s=1), site.target)


def by_idle_jobs() -> Iterator[tuple[int, Run]]:
    """5,000 triggers/s beside jobs that are not due."""
    with running(1) as site:
        present = 0
        for jobs in (1_000, 10_000, 100_000, 300_000):
            asyncio.run(fill(site.etcd.endpoint, jobs - present, 100, begin=present))
            present = jobs
            site.wait_for_jobs(jobs)
            yield jobs, client_for("every").run(Work("every", 5_000, 8, spread_s=1), site.target)


def by_replicas() -> Iterator[tuple[int, Run]]:
    """3,000 triggers/s."""
    for replicas in (1, 2, 3, 4):
        with running(replicas) as site:
            yield (
                replicas,
                client_for("every").run(Work("every", 3_000, 8, spread_s=1, creates_per_s=1_500), site.target),
            )


def by_tenants() -> Iterator[tuple[int, Run]]:
    """3,000 triggers/s of so many apps, each with a sidecar's connections of its own."""
    for tenants in (1, 10, 100, 500):
        with running(1) as site:
            yield tenants, asyncio.run(_tenants(tenants, 3_000, 8, site))


class _Arrivals:
    """Answers at once, and keeps the lateness of what comes while it is to."""

    def __init__(self) -> None:
        self.late_s: list[float] = []
        self.count = 0

    def take(self, session: Session, message: bytes) -> None:
        """See `Receiver`."""
        trigger = pb.WatchJobsResponse.FromString(message)
        session.acknowledge(trigger.id, succeeded=True)
        one = trigger.occurrence
        self.late_s.append((time.time_ns() - one.scheduled_seconds * _S - one.scheduled_nanos) * 1e-9)
        self.count += 1

    def lost(self, session: Session) -> None:
        """See `Receiver`."""


async def _tenants(tenants: int, jobs: int, seconds: int, site: Site) -> Run:
    arrivals, rng = _Arrivals(), random.Random(tenants)
    sidecars = [
        Schedulers(addresses=site.target.addresses, streams_per_host=1, receiver=arrivals, rng=rng)
        for _ in range(tenants)
    ]
    for number, sidecar in enumerate(sidecars):
        initial = pb.WatchJobsRequestInitial(namespace="default", app_id=f"tenant-{number}")
        sidecar.watch(pb.WatchJobsRequest(initial=initial).SerializeToString())
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(sidecar.run()) for sidecar in sidecars]
        async with asyncio.timeout(60):
            while not all(one.streams and one.streams[0].connected for one in sidecars):
                await asyncio.sleep(0.1)
        at_ns = (time.time_ns() // _S + 3 + jobs // 500) * _S
        waiting = iter(range(jobs))

        async def worker() -> None:
            for number in waiting:
                first_ns = at_ns + number * _S // jobs
                due = datetime.fromtimestamp(first_ns // _S, UTC).strftime("%Y-%m-%dT%H:%M:%S")
                request = pb.ScheduleJobRequest(
                    name=f"job-{number}",
                    metadata=job_metadata(app_id=f"tenant-{number % tenants}"),
                    job=pb.Job(schedule="@every 1s", due_time=f"{due}.{first_ns % _S // 1_000_000:03d}Z"),
                )
                await sidecars[number % tenants].call("ScheduleJob", request, wait_for_ready=True)

        async with asyncio.TaskGroup() as workers:
            for _ in range(64):
                workers.create_task(worker())
        await asyncio.sleep((at_ns - time.time_ns()) / _S + 1)
        arrivals.late_s.clear()
        before, count = sum(map(cpu_s, site.target.pids)), arrivals.count
        await asyncio.sleep(seconds)
        used_s, fired = sum(map(cpu_s, site.target.pids)) - before, arrivals.count - count
        for one in following:
            one.cancel()
    figures = quantiles("lateness", arrivals.late_s) | {CPU: used_s / fired * 1e6}
    # Exactly so many are due in as many seconds; those of the first and the last moment may fall to either side.
    off = max(0, abs(fired - jobs * seconds) - jobs // 10)
    return Run(figures, {"missing or repeated": off}, f"{tenants} apps")


SERIES = (
    Series("load", "Lateness against load", "triggers per second", (LATE_50, LATE_99), by_load),
    Series(
        "jobs", "Cost of a trigger against idle jobs present, at 5,000 triggers/s", "idle jobs", (CPU,), by_idle_jobs
    ),
    Series("replicas", "Cost of a trigger against replicas, at 3,000 triggers/s", "replicas", (CPU,), by_replicas),
    Series("tenants", "Cost of a trigger against apps, at 3,000 triggers/s", "apps", (CPU,), by_tenants),
)
