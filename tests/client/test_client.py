"""The Python client against a real replica, and against a scheduler that behaves as the reference's."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scheduler.client import (
    Client,
    ClientError,
    Drop,
    Job,
    JobExists,
    JobNotFound,
    Retry,
    SchedulerUnavailable,
    Trigger,
)
from tests.support.processes import ROOT, free_port
from tests.support.reference import ReferenceScheduler

pytestmark = pytest.mark.e2e


async def until(condition, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_jobs_come_back_as_they_were_given(shared, app_id) -> None:
    async with Client(shared.addresses[0], app_id=app_id) as client:
        await client.schedule(
            "all",
            schedule="@every 1h",
            due_time="30m",
            repeats=7,
            ttl=timedelta(hours=20),
            data={"n": 1, "list": [1.5, None, "x"]},
            failure_policy=Retry(interval=timedelta(milliseconds=1500), max_retries=None),
        )
        assert await client.get("all") == Job(
            name="all",
            schedule="@every 1h",
            due_time="30m",
            repeats=7,
            ttl="20h0m0s",
            data={"n": 1, "list": [1.5, None, "x"]},
            failure_policy=Retry(interval=timedelta(milliseconds=1500), max_retries=None),
        )
        at = datetime(2099, 1, 1, 12, tzinfo=UTC)
        await client.schedule("once", due_time=at, data=b"\x00raw", failure_policy=Drop())
        once = await client.get("once")
        assert (once.due_time, once.data, once.failure_policy) == ("2099-01-01T12:00:00Z", b"\x00raw", Drop())
        await client.schedule("period", schedule=timedelta(minutes=90))
        assert (await client.get("period")).schedule == "@every 1h30m0s"
        assert sorted(job.name for job in await client.list()) == ["all", "once", "period"]
        await client.delete("once")
        await client.delete("once")
        await client.delete_by_prefix("p")
        assert [job.name for job in await client.list()] == ["all"]
        await client.delete_by_prefix("")
        assert await client.list() == []


async def test_errors_say_what_is_wrong(shared, app_id) -> None:
    async with Client(shared.addresses[0], app_id=app_id) as client:
        await client.schedule("one", due_time="1h")
        with pytest.raises(JobExists, match="one"):
            await client.schedule("one", due_time="2h")
        await client.schedule("one", due_time="2h", overwrite=True)
        with pytest.raises(JobNotFound, match="nope"):
            await client.get("nope")
        with pytest.raises(ClientError, match="every") as caught:
            await client.schedule("bad", schedule="@every banana")
        assert caught.value.code == "UNKNOWN"
        with pytest.raises(ValueError, match="time zone"):
            await client.schedule("bad", due_time=datetime(2099, 1, 1))  # noqa: DTZ001 - the fault under test
        with pytest.raises(TypeError, match="JSON"):
            await client.schedule("bad", due_time="1h", data={"x": object()})
        await client.delete("one")
    with pytest.raises(RuntimeError, match="async with"):
        await client.get("one")
    with pytest.raises(ValueError, match="host:port"):
        Client("nowhere", app_id="x")


async def test_a_scheduler_that_is_not_there_is_said_so() -> None:
    async with Client(f"127.0.0.1:{free_port()}", app_id="x", timeout=timedelta(seconds=0.5)) as client:
        with pytest.raises(ClientError):
            await client.get("one")
    scheduler = ReferenceScheduler(hosts=[f"127.0.0.1:{free_port()}"])
    try:
        async with Client(scheduler.address, app_id="x", timeout=timedelta(seconds=0.5)) as client:
            with pytest.raises(SchedulerUnavailable):
                await client.get("one")
    finally:
        scheduler.close()


async def test_a_loop_acknowledges_what_it_has_done_and_retries_what_it_fails(shared, app_id) -> None:
    attempts: list[int | None] = []
    async with Client(shared.addresses[0], app_id=app_id) as client:
        await client.schedule(
            "work", schedule="@every 1s", due_time="0s", repeats=2, data={"db": "my-prod-db"},
            failure_policy=Retry(interval=timedelta(milliseconds=100), max_retries=5),
        )  # fmt: skip
        async with asyncio.timeout(15):
            async for trigger in client.triggers():
                assert trigger.name == "work"
                assert trigger.data == {"db": "my-prod-db"}
                assert trigger.scheduled is not None
                attempts.append(trigger.attempt)
                if len(attempts) == 1:
                    trigger.fail()
                if len(attempts) == 3:
                    break
        assert attempts == [0, 1, 0]
    async with Client(shared.addresses[0], app_id=app_id) as client:
        # The last was left by `break`, which is no failure: the job has had its repeats and is gone.
        async with asyncio.timeout(30):
            while await client.list():
                await asyncio.sleep(0.05)


async def test_an_exception_fails_the_trigger_and_stays_itself(shared, app_id) -> None:
    seen: list[Trigger] = []

    async def fall() -> None:
        async with Client(shared.addresses[0], app_id=app_id) as client:
            policy = Retry(interval=timedelta(milliseconds=50), max_retries=3)
            await client.schedule("work", due_time="0s", failure_policy=policy)
            async for trigger in client.triggers():
                seen.append(trigger)
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fall()
    async with Client(shared.addresses[0], app_id=app_id) as client, asyncio.timeout(30):
        async for trigger in client.triggers():
            seen.append(trigger)
            break
    assert [(one.name, one.attempt) for one in seen] == [("work", 0), ("work", 1)]
    assert seen[0].identity == seen[1].identity


async def test_handlers_run_side_by_side_and_fail_alone(shared, app_id) -> None:
    client = Client(shared.addresses[0], app_id=app_id)
    done: list[str] = []
    together = asyncio.Barrier(2)

    @client.job("a")
    @client.job("b")
    async def meet(trigger: Trigger) -> None:
        await together.wait()
        done.append(trigger.name)

    @client.job("flaky")
    async def flaky(trigger: Trigger) -> None:
        if trigger.attempt == 0:
            raise RuntimeError("not yet")
        done.append(trigger.name)

    @client.job()
    async def rest(trigger: Trigger) -> None:
        done.append(f"rest of {trigger.name}")

    async with client:
        running = asyncio.ensure_future(client.run())
        for name in ("a", "b", "flaky", "other"):
            policy = Retry(interval=timedelta(milliseconds=50))
            await client.schedule(name, due_time="0s", failure_policy=policy)
        await until(lambda: len(done) == 4)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert sorted(done) == ["a", "b", "flaky", "rest of other"]


async def test_a_trigger_whose_stream_was_lost_is_handled_once() -> None:
    """It comes again while the handler runs, and once more after its answer: the handler runs once, both are answered."""
    scheduler = ReferenceScheduler()
    occurrence = {"occurrence": {"generation": 7, "index": 3}}
    release = asyncio.Event()
    ran: list[str] = []
    client = Client(scheduler.address, app_id="x")

    @client.job("slow")
    async def slow(trigger: Trigger) -> None:
        ran.append(trigger.name)
        await release.wait()

    try:
        async with client:
            running = asyncio.ensure_future(client.run())
            await until(lambda: len(scheduler.open) == 1)
            scheduler.open[0].send("slow", **occurrence)
            await until(lambda: ran)
            scheduler.open[0].end()
            await until(lambda: len(scheduler.streams) == 2)
            again = scheduler.streams[1]
            second = again.send("slow", **occurrence)
            other = again.send("unknown")
            await until(lambda: again.results)
            assert again.results == [(other, 1)]
            release.set()
            await until(lambda: len(again.results) == 2)
            third = again.send("slow", **occurrence)
            await until(lambda: len(again.results) == 3)
            assert again.results[1:] == [(second, 0), (third, 0)]
            running.cancel()
        assert ran == ["slow"]
        await until(lambda: not scheduler.open)
    finally:
        scheduler.close()


def test_the_documented_example_runs(shared, tmp_path: Path) -> None:
    """The ten lines in docs/client.md, as they stand there but for the period and the address."""
    page = (ROOT / "docs" / "client.md").read_text()
    program = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert sum(bool(line) for line in program.splitlines()) <= 10
    assert "@every 1m" in program
    program = program.replace("@every 1m", "@every 1s").replace("localhost:50006", shared.addresses[0])
    file = tmp_path / "backup.py"
    file.write_text(program)
    process = subprocess.Popen([sys.executable, "-u", str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(2)] == ["backing up my-prod-db"] * 2
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
