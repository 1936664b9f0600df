"""Being sure of the present: a watch tells what has happened, and never that nothing else has.

After a time without trust in the lease, what the watches have told may be as old as that time, while etcd has deleted and overwritten jobs since. So a mark is
written into each partition's range, and nothing is fired until its watch has come to it.
"""

import asyncio
from collections.abc import Callable, Sequence

from scheduler.engine.partition import OwnedPartition
from scheduler.store.partition import PartitionReader

# A watch that does not come to its mark for this long is taken for lost: its partition is read again.
SILENT_S = 2.0


async def catch_up(
    partitions: Sequence[OwnedPartition], reader: PartitionReader, silent: Callable[[OwnedPartition], None]
) -> None:
    """Return once each partition that is still fired is known as etcd held it at the call, or later.

    `silent(owned)` hears of watches that do not get there by themselves. Raises EtcdError.
    """
    marked = await reader.mark([owned.number for owned in partitions])
    behind = [(owned, marked[owned.number]) for owned in partitions]
    while behind:
        try:
            async with asyncio.timeout(SILENT_S):
                for owned, revision in behind:
                    await owned.know(revision)
        except TimeoutError:
            for owned, revision in behind:
                if owned.behind(revision):
                    silent(owned)
        behind = [(owned, revision) for owned, revision in behind if owned.behind(revision)]
