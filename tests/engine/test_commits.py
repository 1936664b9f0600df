"""Group commit when partitions are lost on the way."""

import asyncio

from scheduler.aio.clock import SystemClock
from scheduler.core.lifecycle import DROP, Job
from scheduler.engine.commits import Commits
from scheduler.engine.partition import OwnedPartition, Phase
from scheduler.etcd.api import Outcome
from scheduler.metrics import EngineStatistics


class Log:
    """A progress log whose claims have gone."""

    max_txn_ops = 128

    async def append(self, batches) -> tuple[Outcome, set[int]]:
        return Outcome.REJECTED, {batch.partition for batch in batches}


def settled_job(owned: OwnedPartition) -> Job:
    job = Job(
        key=b"k",
        generation=1,
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
    async with asyncio.timeout(5):
        await commits.flush(owned)
    assert (commits.uncommitted, owned.committing) == (0, False)
    running.cancel()
