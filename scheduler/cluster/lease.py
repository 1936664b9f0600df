"""The one lease of a replica: granted, kept alive, trusted for a term, and trusted again after a lapse only once what was missed is known."""

import asyncio
from collections.abc import Awaitable, Callable

from scheduler.aio.clock import Clock
from scheduler.cluster.predecessor import LeaseFile
from scheduler.core.tenure import Tenure
from scheduler.etcd.api import Etcd
from scheduler.etcd.errors import EtcdError
from scheduler.logs import get_logger
from scheduler.metrics import ClusterStatistics

KEEPALIVE_TIMEOUT_S = 1.0
_RETRY_S = 0.3

_log = get_logger("cluster")


class Lease:
    """One lease after the other; `gone` is set while there is none."""

    def __init__(
        self,
        *,
        etcd: Etcd,
        ttl_s: int,
        clock: Clock,
        statistics: ClusterStatistics,
        catch_up: Callable[[], Awaitable[None]],
        file: LeaseFile | None,
    ) -> None:
        """`catch_up()` returns once all that is acted on is known as etcd held it at the call; `file` proves that a predecessor is dead."""
        self._etcd = etcd
        self._ttl_s = ttl_s
        self._clock = clock
        self._statistics = statistics
        self._catch_up = catch_up
        self._file = file
        self._tasks: asyncio.TaskGroup | None = None
        self._confirming = False
        self.tenure = Tenure(margin_s=min(1.0, ttl_s / 5))
        self.gone = asyncio.Event()
        self.id = 0

    async def grant(self) -> None:
        """A new lease; the predecessor's, whose process is dead, is revoked first. Raises EtcdError."""
        if self._file is not None and (old := self._file.read()):
            _log.info("predecessor_lease_revoked", lease=old)
            await self._etcd.lease_revoke(old)
            self._file.write(0)
        started_s = self._clock.boottime_s()
        self.id = await self._etcd.lease_grant(self._ttl_s)
        if self._file is not None:
            self._file.write(self.id)
        self.tenure.renew(started_s, self._ttl_s, self._clock.boottime_s())
        self.gone.clear()

    async def keep(self) -> None:
        """Until cancelled. Attempts overlap: one that hangs on a stalled member holds up nothing."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                while True:
                    self.keep_alive_soon()
                    await asyncio.sleep(self._ttl_s / 4)
        finally:
            self._tasks = None

    def keep_alive_soon(self) -> None:
        """One attempt more, while the lease is kept."""
        if self._tasks is not None and not self.gone.is_set():
            self._tasks.create_task(self._keep_alive(), name="cluster keepalive")

    async def _keep_alive(self) -> None:
        started_s = self._clock.boottime_s()
        try:
            ttl_s = await self._etcd.lease_keep_alive(self.id, timeout_s=KEEPALIVE_TIMEOUT_S)
        except EtcdError as error:
            self._statistics.keepalive_failures += 1
            _log.debug("keepalive_failed", error=str(error))
            return
        if ttl_s <= 0:
            self.give_up()
        elif not self.gone.is_set():
            self.tenure.renew(started_s, ttl_s, self._clock.boottime_s())
            if self.tenure.doubted and not self._confirming and self._tasks is not None:
                self._confirming = True
                self._tasks.create_task(self._confirm(), name="cluster confirmation after a lapse of trust")

    async def _confirm(self) -> None:
        """Trust had lapsed: act again only on what is known to be newer than its return (promise G8)."""
        started_s = self._clock.boottime_s()
        try:
            while self.tenure.doubted:
                lapses = self.tenure.lapses
                try:
                    await self._catch_up()
                except EtcdError as error:
                    _log.warning("catch_up_failed", error=str(error))
                    await asyncio.sleep(_RETRY_S)
                else:
                    self.tenure.confirm(lapses)
            _log.info("trusted_again", lease=self.id, caught_up_s=round(self._clock.boottime_s() - started_s, 3))
        finally:
            self._confirming = False

    def give_up(self) -> None:
        """Act no more: the lease is gone, or about to go."""
        self.tenure.end()
        self.gone.set()

    async def revoke(self) -> None:
        """End it in etcd, too. Raises EtcdError."""
        if self.id:
            await self._etcd.lease_revoke(self.id)
        if self._file is not None:
            self._file.write(0)
