"""Group commit when partitions are lost on the way."""

import asyncio

from scheduler.aio.clock import SystemClock
from scheduler.core.lifecycle import DROP, Job
from scheduler.engine.commits import Commits
from scheduler.engine.partition import OwnedPartition, Phase
from scheduler.etcd.api import Outcome
from scheduler.metrics import EngineStatistics


class Log:
    """A progress log whose claims have gone; it deletes what it is told to."""

    max_txn_ops = 128

    def __init__(self) -> None:
        self.deletions: list[list[bytes]] = []

    async def append(self, batches) -> tuple[Outcome, set[int]]:
        return Outcome.REJECTED, {batch.partition for batch in batches}

    async def delete_finished(self, jobs) -> Outcome:
        self.deletions.append([job.key for job in jobs])
        return Outcome.COMMITTED


def settled_job(owned: OwnedPartition, generation: int = 1, key: bytes = b"k") -> Job:
    job = Job(
        key=key,
        generation=generation,
        revision=1,
        trigger=b"",
        schedule=None,
        repeats=None,
        first_ns=1,
        expires_ns=None,
        policy=DROP,
    )
    job.partition = owned
    job.succeed(1)
    return job


async def test_a_hand_over_ends_though_the_claim_was_lost_meanwhile() -> None:
    commits = Commits(
        log=Log(), clock=SystemClock(), statistics=EngineStatistics(), window=10, committed=lambda _: None, lost=lambda _: None
    )  # fmt: skip
    owned = OwnedPartition(3, epoch=7)
    owned.phase = Phase.ENDED
    running = asyncio.create_task(commits.run())
    commits.settled(settled_job(owned), 1)
    async with asyncio.timeout(30):
        await commits.flush(owned)
    assert (commits.uncommitted, owned.committing) == (0, False)
    running.cancel()


async def test_one_deletion_holds_records_of_as_few_partitions_as_fill_it() -> None:
    log = Log()
    commits = Commits(
        log=log, clock=SystemClock(), statistics=EngineStatistics(), window=10, committed=lambda _: None, lost=lambda _: None
    )  # fmt: skip
    partitions = [OwnedPartition(number, epoch=7) for number in range(8)]
    for generation in range(8 * 80):
        owned = partitions[generation % 8]
        commits.finished(owned, settled_job(owned, generation, bytes((owned.number,))))
    running = asyncio.create_task(commits.run_deletions())
    async with asyncio.timeout(30):
        while any(owned.finished for owned in partitions):
            await asyncio.sleep(0.01)
    running.cancel()
    assert sum(map(len, log.deletions)) == 8 * 80 and len(log.deletions) == 5
    assert sum(len(set(keys)) for keys in log.deletions) <= 2 * 8
