"""Membership and ownership: one lease, one member key, and claims on partitions (design 5).

Every replica computes the same assignment from the serving members and moves only its own claims towards it: takes what is free and should
be its own, hands over what should be another's. There is no leader and no agreement step. etcd's revisions are the truth; local
time only makes us stop sooner. Tasks live in the group that `run` owns.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

from google.protobuf.message import DecodeError

from scheduler._pb.scheduler_storage.v1.storage_pb2 import Claim, Member, Meta
from scheduler.aio.clock import Clock
from scheduler.cluster.hosts import HostList
from scheduler.cluster.predecessor import LeaseFile
from scheduler.core.partitions import assign
from scheduler.core.shares import Peer, Seat, Shares, basis_of
from scheduler.core.tenure import Tenure
from scheduler.etcd.api import (
    Compare,
    CompareTarget,
    Delete,
    Etcd,
    Event,
    KeyValue,
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
from scheduler.etcd.errors import EtcdError
from scheduler.logs import get_logger
from scheduler.metrics import ClusterStatistics
from scheduler.store.errors import WrongCluster
from scheduler.store.keys import Keys, range_end

FORMAT_VERSION = 1
KEEPALIVE_TIMEOUT_S = 1.0
SETTLE_S = 1.0
_RETRY_S = 0.3
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


class Gates(Protocol):
    """The concurrency limits, as the cluster sees them."""

    def apply_shares(self) -> None:
        """The shares have changed."""

    def excess(self) -> dict[str, int]:
        """By how much limits' triggers in flight exceed our share, by the limit's key."""


class _Claimed(NamedTuple):
    """One claim as etcd has it."""

    replica: str
    epoch: int
    lease: int


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
        self._ttl_s = lease_ttl_s
        self._clock = clock
        self._owner = owner
        self._shares = shares
        self._gates = gates
        self._statistics = statistics
        self._lease_file = lease_file
        self._claims_max = nested_max(max_txn_ops)
        self._member = Member(
            replica=replica,
            address=address,
            state=Member.STATE_JOINING,
            version=version,
            started_unix_ms=clock.wall_ns() // 1_000_000,
            incarnation=rng.getrandbits(64),
        )
        self.tenure = Tenure(margin_s=min(1.0, lease_ttl_s / 5))
        self.hosts = HostList()
        self._lease = 0
        self._members: dict[str, Member] = {}
        self._joined: dict[str, int] = {}  # the revision that made each member's key
        self._claims: dict[int, _Claimed] = {}
        self._owned: dict[int, int] = {}
        self._moving: set[int] = set()
        # The last epoch given up, by partition: a late event must not make us adopt it again.
        self._released: dict[int, int] = {}
        self._look = asyncio.Event()
        self._unread = True
        self._watches: list[WatchHandle] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._lease_gone = asyncio.Event()
        self._draining = False
        self._drained = asyncio.Event()

    @property
    def state(self) -> str:
        """Where this replica stands: joining, serving or draining."""
        return Member.State.Name(self._member.state).removeprefix("STATE_").lower()

    def owned(self) -> dict[int, int]:
        """Partition to epoch, of the claims that this replica acts on."""
        return dict(self._owned)

    def members(self) -> dict[str, Member]:
        """All members with a live key."""
        return dict(self._members)

    async def start(self) -> None:
        """Make sure that the data in etcd is for us. Raises WrongCluster, or EtcdError while etcd is not there."""
        meta = Meta(format_version=FORMAT_VERSION, partition_count=self._partition_count, cluster_id=1)
        key = self._keys.meta
        absent = (Compare(key, CompareTarget.CREATE_REVISION, 0),)
        result = await self._etcd.txn(absent, (Put(key, meta.SerializeToString()),), (Range(key),))
        if result.outcome is Outcome.COMMITTED:
            return
        found = await self._etcd.range(Range(key))
        if not found.kvs:
            raise WrongCluster("the cluster's meta record could not be written")
        try:
            stored = Meta.FromString(found.kvs[0].value)
        except DecodeError as error:
            raise WrongCluster(f"the record {key.decode()!r} in etcd is not a scheduler's: {error}") from error
        if stored.format_version > FORMAT_VERSION:
            raise WrongCluster(f"data has format {stored.format_version}; this version reads up to {FORMAT_VERSION}")
        if stored.partition_count != self._partition_count:
            raise WrongCluster(
                f"--partitions is {self._partition_count}, and the cluster in etcd was created with {stored.partition_count}: "
                f"start with --partitions {stored.partition_count}; the number is fixed for a cluster's life"
            )

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
        if self._lease_file is not None and (old := self._lease_file.read()):
            _log.info("predecessor_lease_revoked", lease=old)
            await self._etcd.lease_revoke(old)
            self._lease_file.write(0)
        started_s = self._clock.boottime_s()
        self._lease = await self._etcd.lease_grant(self._ttl_s)
        if self._lease_file is not None:
            self._lease_file.write(self._lease)
        self.tenure.renew(started_s, self._ttl_s)
        self._lease_gone.clear()
        self._unread = True
        self._shares.reset()
        self._gates().apply_shares()
        if not self._draining:
            self._member.state = Member.STATE_JOINING
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                keeper = tasks.create_task(self._keep_lease(), name="cluster lease")
                worker = tasks.create_task(self._work(), name="cluster claims")
                await self._lease_gone.wait()
                keeper.cancel()
                worker.cancel()
        finally:
            self._tasks = None
            self.tenure.end()
            self._stop_watching()
            for partition in list(self._owned):
                self._drop(partition)
        if not self._drained.is_set():
            self._statistics.leases_lost += 1
            _log.warning("lease_lost", lease=self._lease)

    async def _keep_lease(self) -> None:
        """Attempts overlap: one that hangs on a stalled member holds up nothing."""
        async with asyncio.TaskGroup() as attempts:
            while True:
                attempts.create_task(self._keep_alive(), name="cluster keepalive")
                await asyncio.sleep(self._ttl_s / 4)

    async def _keep_alive(self) -> None:
        started_s = self._clock.boottime_s()
        try:
            ttl_s = await self._etcd.lease_keep_alive(self._lease, timeout_s=KEEPALIVE_TIMEOUT_S)
        except EtcdError as error:
            self._statistics.keepalive_failures += 1
            _log.debug("keepalive_failed", error=str(error))
            return
        if ttl_s > 0:
            self.tenure.renew(started_s, ttl_s)
        else:
            self._lease_gone.set()

    # Claims

    async def _work(self) -> None:
        """Move our claims towards the assignment, whenever something changes."""
        await self._register()
        settled_at_s = self._clock.boottime_s() + SETTLE_S
        while True:
            self._look.clear()
            if self._unread:
                await self._read()
            await self._step(settled_at_s)
            with contextlib.suppress(TimeoutError):
                wait_s = _LOOK_AGAIN_S
                if self._member.state == Member.STATE_JOINING:
                    wait_s = min(wait_s, max(0.01, settled_at_s - self._clock.boottime_s()))
                async with asyncio.timeout(wait_s):
                    await self._look.wait()

    async def _register(self) -> None:
        """Put our member key; while another process holds the name, wait for it to go."""
        key = self._keys.member(self.replica)
        warned = False
        while True:
            put = Put(key, self._member.SerializeToString(), self._lease)
            absent = (Compare(key, CompareTarget.CREATE_REVISION, 0),)
            result = await self._etcd.txn(absent, (put,), (Range(key),))
            if result.outcome is Outcome.COMMITTED:
                _log.info("registered", replica=self.replica, address=self._member.address)
                return
            found = result.responses[0] if result.responses else None
            if isinstance(found, RangeResult) and found.kvs and found.kvs[0].lease == self._lease:
                return
            if result.outcome is Outcome.REJECTED and not warned:
                warned = True
                _log.warning(
                    "replica_id_taken", replica=self.replica, hint="waiting for the other process's lease to end"
                )
            await asyncio.sleep(_RETRY_S)

    async def _set_state(self, state: "Member.State") -> None:
        self._member.state = state
        await self._publish()
        self._members[self.replica] = self._member
        _log.info("state_changed", state=self.state)

    async def _publish(self) -> None:
        """Write our member key as it should be, unless it is gone."""
        key = self._keys.member(self.replica)
        absent = (Compare(key, CompareTarget.VERSION, 0),)
        put = Put(key, self._member.SerializeToString(), self._lease)
        result = await self._etcd.txn(absent, (), (put,))
        if result.outcome is Outcome.UNKNOWN:
            self._unread = True

    async def _publish_shares(self) -> None:
        """Tell the others which shares we keep to, and where we still exceed them."""
        basis, excess = self._shares.basis, self._gates().excess()
        if basis and (basis != self._member.share_basis or excess != self._member.share_excess):
            self._member.share_basis = basis
            self._member.share_excess.clear()
            self._member.share_excess.update(excess)
            await self._publish()

    async def _read(self) -> None:
        """Members and claims at one revision, and watches from there."""
        self._stop_watching()
        members, claims = self._keys.members, self._keys.claims
        reads = (Range(members, range_end(members)), Range(claims, range_end(claims)))
        result = await self._etcd.txn((), reads)
        self._members, self._joined, self._claims = {}, {}, {}
        for found in result.responses:
            assert isinstance(found, RangeResult), found
            for kv in found.kvs:
                self._take(kv)
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

    def _take(self, kv: KeyValue) -> None:
        """One member or claim; a record that is none is ignored, and said so."""
        try:
            if kv.key.startswith(self._keys.members):
                member = Member.FromString(kv.value)
                name = kv.key.removeprefix(self._keys.members).decode("utf-8", "replace")
                self._members[name], self._joined[name] = member, kv.create_revision
            else:
                partition = self._keys.claim_partition(kv.key)
                self._claims[partition] = _Claimed(Claim.FromString(kv.value).replica, kv.create_revision, kv.lease)
        except (DecodeError, ValueError) as error:
            _log.error("cluster_record_corrupt", key=kv.key.decode("utf-8", "replace"), error=str(error))

    def _changed(self, _revision: int, events: list[Event]) -> None:
        members = False
        for is_delete, kv in events:
            if kv.key.startswith(self._keys.members):
                members = True
                if is_delete:
                    name = kv.key.removeprefix(self._keys.members).decode("utf-8", "replace")
                    self._members.pop(name, None)
                    self._joined.pop(name, None)
                    if name == self.replica and self._tasks is not None:
                        self._tasks.create_task(self._keep_alive(), name="cluster keepalive after our key went")
                    continue
            elif is_delete:
                with contextlib.suppress(ValueError):
                    partition = self._keys.claim_partition(kv.key)
                    self._claims.pop(partition, None)
                    if partition in self._owned and partition not in self._moving:
                        self._drop(partition)
                continue
            self._take(kv)
        if members:
            self._members_changed()
        self._look.set()

    def _members_changed(self) -> None:
        listed = sorted(self._members.items())
        self.hosts.update(tuple(member.address for _, member in listed))
        if self.replica in self._joined:
            peers = [Peer(one.share_basis, one.share_excess) for name, one in listed if name != self.replica]
            seat = Seat(len(listed), sorted(self._members).index(self.replica))
            self._shares.update(basis_of(self._joined), seat, peers)
            self._gates().apply_shares()

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
        await self._publish_shares()
        serving = [name for name, member in self._members.items() if member.state == Member.STATE_SERVING]
        if self._member.state == Member.STATE_JOINING and not self._draining:
            others = [name for name in serving if name != self.replica]
            if not others or self._clock.boottime_s() >= settled_at_s:
                await self._set_state(Member.STATE_SERVING)
                serving = [*others, self.replica]
        for partition, epoch in list(self._owned.items()):
            claim = self._claims.get(partition)
            if partition not in self._moving and (claim is None or claim.epoch != epoch):
                self._drop(partition)
        for partition, claim in self._claims.items():
            known = partition in self._owned or partition in self._moving
            if claim.lease == self._lease and not known and claim.epoch > self._released.get(partition, 0):
                self._gain(partition, claim.epoch)
        wanted = assign(serving, self._partition_count)
        await self._claim([p for p, name in wanted.items() if name == self.replica and p not in self._claims])
        for partition in list(self._owned):
            if (
                self._draining or wanted.get(partition, self.replica) != self.replica
            ) and partition not in self._moving:
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
                takes.append(Txn(free, (Put(key, value, self._lease),), (Range(key),)))
            result = await self._etcd.txn((), takes)
            if result.outcome is Outcome.UNKNOWN:
                self._unread = True
                self._look.set()
                return
            for partition, taken in zip(chunk, result.responses, strict=True):
                if isinstance(taken, TxnResult) and taken.outcome is Outcome.COMMITTED:
                    self._claims[partition] = _Claimed(self.replica, result.revision, self._lease)
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
            while (await self._etcd.txn(ours, (Delete(key),))).outcome is Outcome.UNKNOWN:
                pass
            claim = self._claims.get(partition)
            if claim is not None and claim.epoch == epoch:
                del self._claims[partition]
            self._statistics.claims_released += 1
        except EtcdError as error:
            # The claim may stand without an owner: the next read finds it under our lease and adopts it.
            _log.warning("hand_over_failed", partition=partition, error=str(error))
            self._released.pop(partition, None)
            self._unread = True
        finally:
            self._owned.pop(partition, None)
            self._moving.discard(partition)
            self._look.set()

    async def retire(self, reason: str) -> None:
        """Give everything up at once, without hand-over, and stay out. `run` returns afterwards."""
        _log.error("retired", replica=self.replica, reason=reason)
        self._draining = True
        self.tenure.end()
        self._drained.set()
        self._lease_gone.set()
        with contextlib.suppress(EtcdError):
            await self._etcd.lease_revoke(self._lease)

    async def drain(self, timeout_s: float) -> None:
        """Hand everything over, then give the lease up; bounded. `run` returns afterwards."""
        self._draining = True
        with contextlib.suppress(TimeoutError, EtcdError):
            async with asyncio.timeout(timeout_s):
                if self._lease and self._tasks is not None:
                    await self._set_state(Member.STATE_DRAINING)
                    self._look.set()
                    await self._drained.wait()
        self._drained.set()
        lease = self._lease
        with contextlib.suppress(TimeoutError, EtcdError):
            async with asyncio.timeout(2.0):
                if lease:
                    await self._etcd.lease_revoke(lease)
                if self._lease_file is not None:
                    self._lease_file.write(0)
        self._lease_gone.set()
        _log.info("drained", replica=self.replica)
