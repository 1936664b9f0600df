"""Membership and ownership: one lease, one member key, and claims on partitions (design 5).

Every replica computes the same assignment from the serving members and moves only its own claims towards it: takes what is free and should
be its own, hands over what should be another's. There is no leader and no agreement step. etcd's revisions are the truth; local
time only makes us stop sooner. Tasks live in the group that `run` owns.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Protocol

from scheduler._pb.scheduler_storage.v1.storage_pb2 import Claim, Member
from scheduler.aio.clock import Clock
from scheduler.cluster.hosts import HostList
from scheduler.cluster.lease import Lease
from scheduler.cluster.meta import check_meta
from scheduler.cluster.predecessor import LeaseFile
from scheduler.cluster.view import Claimed, View
from scheduler.core.partitions import assign
from scheduler.core.shares import Peer, Seat, Shares, basis_of
from scheduler.core.tenure import Tenure
from scheduler.etcd.api import (
    Compare,
    CompareTarget,
    Delete,
    Etcd,
    Event,
    Operation,
    Outcome,
    Put,
    Range,
    RangeResult,
    Txn,
    TxnResult,
    WatchHandle,
    nested_max,
)
from scheduler.etcd.errors import EtcdError, LeaseNotFound
from scheduler.logs import get_logger
from scheduler.metrics import ClusterStatistics
from scheduler.store.keys import Keys, range_end

SETTLE_S = 1.0
_RETRY_S = 0.3
_RELEASE_TIMEOUT_S = 1.0
# A look at the whole even where no event asks for one: nothing may hang on a single lost wake-up.
_LOOK_AGAIN_S = 1.0

_log = get_logger("cluster")


class PartitionOwner(Protocol):
    """The engine, as the cluster sees it."""

    def acquire(self, partition: int, epoch: int) -> None:
        """The claim is ours: load and fire."""

    async def release(self, partition: int) -> None:
        """Stop, finish, commit; afterwards nothing more is written for the partition."""

    def lose(self, partition: int) -> None:
        """The claim is gone: drop everything of it at once."""

    async def catch_up(self) -> None:
        """Return once all that is fired is known as it stood in etcd at the call, or later. Raises EtcdError."""


class Gates(Protocol):
    """The concurrency limits, as the cluster sees them."""

    def apply_shares(self) -> None:
        """The shares have changed."""

    def excess(self) -> dict[str, int]:
        """By how much limits' triggers in flight exceed our share, by the limit's key."""


class Cluster:
    """This replica's part in the cluster."""

    def __init__(
        self,
        *,
        etcd: Etcd,
        keys: Keys,
        replica: str,
        address: str,
        version: str,
        partition_count: int,
        lease_ttl_s: int,
        clock: Clock,
        rng: random.Random,
        owner: Callable[[], PartitionOwner],
        shares: Shares,
        gates: Callable[[], Gates],
        statistics: ClusterStatistics,
        lease_file: LeaseFile | None = None,
        max_txn_ops: int = 128,
    ) -> None:
        """`address` is what sidecars are told; `lease_file` proves that a predecessor is dead; `max_txn_ops` is what etcd takes."""
        self._etcd = etcd
        self._keys = keys
        self.replica = replica
        self._partition_count = partition_count
        self._clock = clock
        self._owner = owner
        self._shares = shares
        self._gates = gates
        self._statistics = statistics
        self._claims_max = nested_max(max_txn_ops)
        self._member = Member(
            replica=replica,
            address=address,
            state=Member.STATE_JOINING,
            version=version,
            started_unix_ms=clock.wall_ns() // 1_000_000,
            incarnation=rng.getrandbits(64),
        )
        self._lease = Lease(
            etcd=etcd,
            ttl_s=lease_ttl_s,
            clock=clock,
            statistics=statistics,
            catch_up=lambda: owner().catch_up(),
            file=lease_file,
        )
        self.hosts = HostList()
        self._view = View(keys)
        self._owned: dict[int, int] = {}
        self._moving: set[int] = set()
        # The last epoch given up, by partition: a late event must not make us adopt it again.
        self._released: dict[int, int] = {}
        self._look = asyncio.Event()
        self._unread = True
        self._watches: list[WatchHandle] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._draining = False
        self._drained = asyncio.Event()
        # Drained by an operator: a member without partitions, until it is told otherwise.
        self.aside = False

    @property
    def state(self) -> str:
        """Where this replica stands: joining, serving or draining."""
        return Member.State.Name(self._member.state).removeprefix("STATE_").lower()

    @property
    def lease(self) -> int:
        """The lease that our member key and claims hang on; 0 before the first."""
        return self._lease.id

    @property
    def tenure(self) -> Tenure:
        """How far the lease is trusted."""
        return self._lease.tenure

    @property
    def partition_count(self) -> int:
        """Partitions of the whole cluster."""
        return self._partition_count

    def owned(self) -> dict[int, int]:
        """Partition to epoch, of the claims that this replica acts on."""
        return dict(self._owned)

    def members(self) -> dict[str, Member]:
        """All members with a live key."""
        return dict(self._view.members)

    @property
    def view(self) -> View:
        """Members and claims as far as they are known; to be read alone."""
        return self._view

    async def start(self) -> None:
        """Make sure that the data in etcd is for us. Raises WrongCluster, or EtcdError while etcd is not there."""
        await check_meta(self._etcd, self._keys.meta, self._partition_count)

    async def run(self) -> None:
        """Take part until cancelled or drained."""
        while not self._drained.is_set():
            try:
                await self._session()
            except EtcdError as error:
                _log.warning("cluster_session_failed", error=str(error))
                await asyncio.sleep(_RETRY_S)

    # One lease's life

    async def _session(self) -> None:
        await self._lease.grant()
        self._unread = True
        self._shares.reset()
        self._gates().apply_shares()
        if not self._draining:
            self._member.state = Member.STATE_JOINING
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._lease.keep(), name="cluster lease")
                tasks.create_task(self._work(), name="cluster claims")
                await self._lease.gone.wait()
                # Nothing that was begun under the lease is worth finishing: raising cancels it all.
                raise LeaseNotFound("the lease is gone")  # noqa: TRY301
        except* LeaseNotFound:
            pass
        finally:
            self._tasks = None
            self._lease.give_up()
            self._stop_watching()
            for partition in list(self._owned):
                self._drop(partition)
        if not self._drained.is_set():
            self._statistics.leases_lost += 1
            _log.warning("lease_lost", lease=self._lease.id)

    # Claims

    async def _work(self) -> None:
        """Move our claims towards the assignment, whenever something changes; what etcd does not do now is asked for again."""
        settled_at_s: float | None = None
        while True:
            self._look.clear()
            try:
                if settled_at_s is None:
                    await self._register()
                    settled_at_s = self._clock.boottime_s() + SETTLE_S
                if self._unread:
                    await self._read()
                await self._step(settled_at_s)
            except LeaseNotFound:
                self._lease.give_up()
            except EtcdError as error:
                _log.warning("cluster_step_failed", error=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                wait_s = _LOOK_AGAIN_S
                if self._member.state == Member.STATE_JOINING and settled_at_s is not None:
                    wait_s = min(wait_s, max(0.01, settled_at_s - self._clock.boottime_s()))
                async with asyncio.timeout(wait_s):
                    await self._look.wait()

    async def _register(self) -> None:
        """Put our member key; while another process holds the name, wait for it to go."""
        key = self._keys.member(self.replica)
        warned = False
        while True:
            put = Put(key, self._member.SerializeToString(), self._lease.id)
            absent = (Compare(key, CompareTarget.CREATE_REVISION, 0),)
            result = await self._etcd.txn(absent, (put,), (Range(key),))
            if result.outcome is Outcome.COMMITTED:
                _log.info("registered", replica=self.replica, address=self._member.address)
                return
            found = result.responses[0] if result.responses else None
            if isinstance(found, RangeResult) and found.kvs and found.kvs[0].lease == self._lease.id:
                return
            if result.outcome is Outcome.REJECTED and not warned:
                warned = True
                _log.warning(
                    "replica_id_taken", replica=self.replica, hint="waiting for the other process's lease to end"
                )
            await asyncio.sleep(_RETRY_S)

    def _set_state(self, state: "Member.State") -> None:
        if self._member.state != state:
            self._member.state = state
            _log.info("state_changed", state=self.state)

    async def _publish(self) -> None:
        """Make our member key say what is: our state, which shares we keep to, and where we still exceed them."""
        basis, excess = self._shares.basis, self._gates().excess()
        if basis:
            self._member.share_basis = basis
            self._member.share_excess.clear()
            self._member.share_excess.update(excess)
        if self._view.members.get(self.replica) == self._member:
            return
        # Under our lease nobody else can have the name.
        put = Put(self._keys.member(self.replica), self._member.SerializeToString(), self._lease.id)
        if (await self._etcd.txn((), (put,))).outcome is Outcome.UNKNOWN:
            self._unread = True
        else:
            self._view.members[self.replica] = Member.FromString(put.value)

    async def _read(self) -> None:
        """Members and claims at one revision, and watches from there."""
        self._stop_watching()
        members, claims = self._keys.members, self._keys.claims
        reads = (Range(members, range_end(members)), Range(claims, range_end(claims)))
        result = await self._etcd.txn((), reads)
        self._view.clear()
        for found in result.responses:
            assert isinstance(found, RangeResult), found
            for kv in found.kvs:
                self._view.take(kv)
        self._unread = False
        for prefix in (members, claims):
            self._watches.append(
                self._etcd.watch(
                    prefix,
                    range_end(prefix),
                    start_revision=result.revision + 1,
                    on_events=self._changed,
                    on_lost=self._watch_lost,
                )
            )
        self._members_changed()

    def _stop_watching(self) -> None:
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.cancel()

    def _watch_lost(self, reason: str) -> None:
        _log.warning("cluster_watch_lost", reason=reason)
        self._unread = True
        self._look.set()

    def _changed(self, _revision: int, events: list[Event]) -> None:
        members = False
        for is_delete, kv in events:
            members = members or self._view.is_member(kv)
            if not is_delete:
                self._view.take(kv)
                continue
            gone = self._view.remove(kv)
            if gone == self.replica:
                self._lease.keep_alive_soon()
            elif isinstance(gone, int) and gone in self._owned and gone not in self._moving:
                self._drop(gone)
        if members:
            self._members_changed()
        self._look.set()

    def _members_changed(self) -> None:
        listed = sorted(self._view.members.items())
        self.hosts.update(tuple(member.address for _, member in listed))
        if self.replica in self._view.joined:
            peers = [Peer(one.share_basis, one.share_excess) for name, one in listed if name != self.replica]
            seat = Seat(len(listed), sorted(self._view.members).index(self.replica))
            self._shares.update(basis_of(self._view.joined), seat, peers)
            self._gates().apply_shares()

    def set_aside(self, *, aside: bool) -> None:
        """Hand everything over and take nothing, yet stay a member; or take part again."""
        self.aside = aside
        self._look.set()

    def look(self) -> None:
        """Look soon whether something is to be done."""
        self._look.set()

    def _drop(self, partition: int) -> None:
        """The claim is not ours any more."""
        del self._owned[partition]
        self._statistics.claims_lost += 1
        self._owner().lose(partition)

    async def _step(self, settled_at_s: float) -> None:
        """Compare what is with what should be, once."""
        others = [
            name
            for name, member in self._view.members.items()
            if member.state == Member.STATE_SERVING and name != self.replica
        ]
        leaving = self._draining or self.aside
        if leaving:
            self._set_state(Member.STATE_DRAINING)
        elif not others or self._clock.boottime_s() >= settled_at_s:
            self._set_state(Member.STATE_SERVING)
        await self._publish()
        serving = [*others, self.replica] if self._member.state == Member.STATE_SERVING else others
        for partition, epoch in list(self._owned.items()):
            claim = self._view.claims.get(partition)
            if partition not in self._moving and (claim is None or claim.epoch != epoch):
                self._drop(partition)
        for partition, claim in self._view.claims.items():
            known = partition in self._owned or partition in self._moving
            if claim.lease == self._lease.id and not known and claim.epoch > self._released.get(partition, 0):
                self._gain(partition, claim.epoch)
        wanted = assign(serving, self._partition_count)
        free = [p for p, name in wanted.items() if name == self.replica and p not in self._view.claims]
        # One that we are just giving up must be gone for good first.
        await self._claim([partition for partition in free if partition not in self._moving])
        for partition in list(self._owned):
            if (leaving or wanted.get(partition, self.replica) != self.replica) and partition not in self._moving:
                self._hand_over(partition)
        if self._draining and not self._owned and not self._moving:
            self._drained.set()

    def _gain(self, partition: int, epoch: int) -> None:
        self._owned[partition] = epoch
        self._statistics.claims_gained += 1
        self._owner().acquire(partition, epoch)

    async def _claim(self, partitions: list[int]) -> None:
        """Take free partitions, many at a time; one whose answer is lost shows up in the next read and is adopted."""
        value = Claim(replica=self.replica, incarnation=self._member.incarnation).SerializeToString()
        for start in range(0, len(partitions), self._claims_max):
            chunk = partitions[start : start + self._claims_max]
            takes: list[Operation] = []
            for partition in chunk:
                key = self._keys.claim(partition)
                free = (Compare(key, CompareTarget.CREATE_REVISION, 0),)
                takes.append(Txn(free, (Put(key, value, self._lease.id),), (Range(key),)))
            result = await self._etcd.txn((), takes)
            if result.outcome is Outcome.UNKNOWN:
                self._unread = True
                self._look.set()
                return
            for partition, taken in zip(chunk, result.responses, strict=True):
                if isinstance(taken, TxnResult) and taken.outcome is Outcome.COMMITTED:
                    self._view.claims[partition] = Claimed(self.replica, result.revision, self._lease.id)
                    self._gain(partition, result.revision)

    def _hand_over(self, partition: int) -> None:
        assert self._tasks is not None
        self._moving.add(partition)
        self._tasks.create_task(self._move(partition, self._owned[partition]), name=f"cluster hand-over of {partition}")

    async def _move(self, partition: int, epoch: int) -> None:
        """Let the engine finish with a partition, then free its claim; nobody else can take it before."""
        try:
            await self._owner().release(partition)
            self._owned.pop(partition, None)
            self._released[partition] = epoch
            key = self._keys.claim(partition)
            ours = (Compare(key, CompareTarget.CREATE_REVISION, epoch),)
            while True:
                result = await self._etcd.txn(ours, (Delete(key),), timeout_s=_RELEASE_TIMEOUT_S)
                if result.outcome is not Outcome.UNKNOWN:
                    break
                await asyncio.sleep(_RETRY_S)
            claim = self._view.claims.get(partition)
            if claim is not None and claim.epoch == epoch:
                del self._view.claims[partition]
            self._statistics.claims_released += 1
        except EtcdError as error:
            # The claim may stand without an owner: the next read finds it under our lease and adopts it.
            _log.warning("hand_over_failed", partition=partition, error=str(error))
            self._released.pop(partition, None)
            self._unread = True
        except asyncio.CancelledError:
            self._owner().lose(partition)
            raise
        finally:
            self._owned.pop(partition, None)
            self._moving.discard(partition)
            self._look.set()

    async def retire(self, reason: str) -> None:
        """Give everything up at once, without hand-over, and stay out. `run` returns afterwards."""
        _log.error("retired", replica=self.replica, reason=reason)
        self._draining = True
        self._drained.set()
        self._lease.give_up()
        with contextlib.suppress(EtcdError):
            await self._lease.revoke()

    async def drain(self, timeout_s: float) -> None:
        """Hand everything over, then give the lease up; bounded. `run` returns afterwards."""
        self._draining = True
        self._look.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if self._tasks is not None:
                    await self._drained.wait()
        self._drained.set()
        # Whatever could not be handed over is fired by others once the lease is revoked: not by us any more.
        self._lease.give_up()
        with contextlib.suppress(TimeoutError, EtcdError):
            async with asyncio.timeout(2.0):
                await self._lease.revoke()
        _log.info("drained", replica=self.replica)
