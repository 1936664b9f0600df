"""What a bulk delete costs others: `python -m tests.perf.bulk_delete -n 100000` prints another app's calls while so many jobs go."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Iterator
from datetime import timedelta
from pathlib import Path

from scheduler.client import Client
from tests.support.processes import EtcdServer, Replica

_AT_ONCE = 128
_CALL = timedelta(seconds=60)


async def _create(client: Client, numbers: Iterator[int]) -> None:
    for number in numbers:
        await client.schedule(f"job-{number}", schedule="@every 24h")


async def _timed(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    await call
    return time.perf_counter() - began


async def measure(address: str, count: int) -> None:
    async with (
        Client(address, app_id="many", timeout=_CALL) as many,
        Client(address, app_id="other", timeout=_CALL) as other,
    ):
        numbers = iter(range(count))
        await asyncio.gather(*(_create(many, numbers) for _ in range(_AT_ONCE)))
        creates, gets = [], []
        deletion = asyncio.create_task(_timed(many.delete_by_prefix("")))
        while not deletion.done():
            creates.append(await _timed(other.schedule("one", schedule="@every 24h", overwrite=True)))
            gets.append(await _timed(other.get("one")))
        print(f"{count} jobs deleted in {await deletion:.2f} s, beside {len(creates)} creates and gets of another app")
        for name, taken in (("creates", creates), ("gets", gets)):
            print(f"{name}: median {sorted(taken)[len(taken) // 2] * 1e3:.0f} ms, longest {max(taken) * 1e3:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.perf.bulk_delete", description=__doc__)
    parser.add_argument("-n", type=int, default=100_000, help="jobs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        etcd = EtcdServer(Path(place) / "etcd").start()
        replica = Replica("a", Path(place) / "a", etcd.endpoint).start().wait_healthy()
        try:
            asyncio.run(measure(replica.address, arguments.n))
        finally:
            replica.close()
            etcd.close()


if __name__ == "__main__":
    main()
