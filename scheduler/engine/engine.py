"""The engine: timers, life cycles and progress of the partitions that this replica owns (design: the engine).

A job enters through the partition's first read or the store's watch, never by a short cut. Due jobs go to the hub in slices; each result
moves the job's life on, is committed with whatever else has come in (commits.py), and only then is the next occurrence armed.
The engine is synchronous state of one event loop; its tasks live in the group that `run` owns.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from scheduler.aio.clock import Clock
from scheduler.core.lifecycle import Job, Progress, State
from scheduler.core.timers import TimerQueue
from scheduler.engine.catch_up import catch_up
from scheduler.engine.commits import Commits
from scheduler.engine.partition import OwnedPartition, Phase
from scheduler.engine.payloads import Payloads
from scheduler.engine.ports import Hub, Lease
from scheduler.etcd.api import Event, KeyValue
from scheduler.etcd.errors import EtcdError, EtcdUnavailable
from scheduler.logs import get_logger
from scheduler.metrics import EngineStatistics
from scheduler.store.codec import CorruptRecord, job_of_record
from scheduler.store.keys import target_key
from scheduler.store.partition import PartitionReader
from scheduler.store.progress import ProgressLog

_ARMED, _WAITING, _IN_FLIGHT, _DONE, _GONE = State.ARMED, State.WAITING, State.IN_FLIGHT, State.DONE, State.GONE
# One turn fires at most this many, so that a storm starves neither acknowledgements nor other jobs.
FIRE_SLICE = 256
# While partitions load, one of them at a time takes records in; the loop gets its turn after so many, or so long. More of them read at once, so that
# there is always something to take in.
LOAD_SLICE = 256
_SLICE_S = 0.003
_ARM_SLICE = 2_048
_LOADS_AT_ONCE = 8
# The wall clock may be set: nothing sleeps on it for longer.
_SLEEP_MAX_S = 1.0
_BLOCKED_RETRY_S = 0.05
_READ_RETRY_S = 0.5
# A read that took longer tells too little of what has been deleted since: its watch must catch up before anything is fired.
_OLD_S = 0.5

_log = get_logger("engine")


class Engine:
    """Owns partitions on the cluster's behalf: see `PartitionOwner` in the cluster room for the three calls that it gets from there."""

    def __init__(
        self,
        *,
        replica: str,
        reader: PartitionReader,
        log: ProgressLog,
        payloads: Payloads,
        lease: Callable[[], Lease],
        clock: Clock,
        statistics: EngineStatistics,
        hub: Callable[[Callable[[Job, bool], None], Callable[[], bool]], Hub],
        commit_window: int = 16_384,
        kept: Callable[[int], None] = lambda _count: None,
        hand_over_wait_s: float = 0.3,
    ) -> None:
        """`hub(settle, may_fire)` makes the hub; `commit_window` bounds what is acknowledged and not committed.

        `kept` hears how many jobs have come into memory.
        """
        self.replica = replica
        self._reader = reader
        self._lease = lease
        self._clock = clock
        self._statistics = statistics
        self._hand_over_wait_s = hand_over_wait_s
        self._kept = kept
        self._payloads = payloads
        self.timers = TimerQueue(clock.wall_ns(), payloads, kept)
        self.partitions: dict[int, OwnedPartition] = {}
        self.hub = hub(self.settle, self.may_fire)
        self.commits = Commits(
            log=log, clock=clock, statistics=statistics, window=commit_window, committed=self._committed, lost=self.lose
        )
        self._wake: asyncio.TimerHandle | None = None
        self._wake_ns = 0
        self._blocked = False
        self._tasks: asyncio.TaskGroup | None = None
        self._loads = asyncio.Semaphore(_LOADS_AT_ONCE)
        # Held by the one load that takes records in.
        self._taking_in = asyncio.Lock()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self.commits.run(), name="engine commits")
            tasks.create_task(self.commits.run_deletions(), name="engine deletions of finished jobs")
            tasks.create_task(self._payloads.run(self._arm_held), name="engine payloads")
            await asyncio.get_running_loop().create_future()

    # The cluster's calls

    def acquire(self, partition: int, epoch: int) -> None:
        """The claim is ours under this epoch: load the partition, then fire its jobs."""
        old = self.partitions.pop(partition, None)
        if old is not None:
            self._end(old)
        owned = self.partitions[partition] = OwnedPartition(partition, epoch)
        assert self._tasks is not None, "acquire before run"
        self._tasks.create_task(self._load(owned), name=f"engine load of partition {partition}")

    async def release(self, partition: int) -> None:
        """Fire nothing more of it, let what is in flight end within a bound, commit; afterwards nothing is written for it."""
        owned = self.partitions.get(partition)
        if owned is None:
            return
        started_s = self._clock.boottime_s()
        if owned.phase is Phase.FIRING or owned.suspended:
            owned.phase = Phase.RELEASING
            owned.look_again()
            for job in owned.jobs.values():
                if job.state is _ARMED or job.state is _WAITING:
                    self._let_go(job)
            if owned.in_flight:
                owned.drained = asyncio.Event()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._hand_over_wait_s):
                        await owned.drained.wait()
            owned.phase = Phase.ENDED
            await self.commits.flush(owned)
            self._statistics.release_seconds.observe(self._clock.boottime_s() - started_s)
        if self.partitions.get(partition) is owned:
            del self.partitions[partition]
        self._end(owned)

    def lose(self, partition: int) -> None:
        """The claim is gone: another replica may own it by now. Everything of it is dropped at once."""
        owned = self.partitions.pop(partition, None)
        if owned is not None:
            _log.warning("partition_lost", partition=partition, epoch=owned.epoch)
            self._end(owned)

    async def catch_up(self) -> None:
        """Return once all that is fired is known as etcd holds it now, or later. Raises EtcdError."""
        fired = [owned for owned in self.partitions.values() if owned.phase is Phase.FIRING]
        await catch_up(fired, self._reader, self._silent)

    def _silent(self, owned: OwnedPartition) -> None:
        """Its watch does not tell what it should: it counts as lost."""
        if owned.watch is not None:
            owned.unwatch()
            self._watch_lost(owned, "silent")

    def _untold(self, _owned: OwnedPartition) -> None:
        """It is read again from the beginning."""
        raise EtcdUnavailable("its watch does not tell what has been written")

    def _end(self, owned: OwnedPartition) -> None:
        owned.phase = Phase.ENDED
        owned.look_again()
        owned.unwatch()
        owned.see()
        for job in owned.jobs.values():
            self._let_go(job)
            job.target.namespace.jobs -= 1
        owned.jobs.clear()
        self.commits.forget(owned)

    def _let_go(self, job: Job) -> None:
        """The job is GONE: whoever still holds it lets it fall."""
        was, job.state = job.state, _GONE
        if was is _WAITING:
            self.hub.withdraw(job)
        elif job.timer is not None:
            self.timers.cancel(job)
        if job.trigger is None:
            self._payloads.forget(job)

    # Jobs come in

    async def _load(self, owned: OwnedPartition) -> None:
        """Read the partition until it has worked and is watched."""
        async with self._loads:
            started_s = self._clock.boottime_s()
            while owned.reading and owned.phase is not Phase.ENDED:
                try:
                    await self._read(owned)
                    owned.reading = owned.watch is None  # lost while it was read
                except EtcdError as error:
                    _log.warning("partition_read_failed", partition=owned.number, error=str(error))
                    await asyncio.sleep(_READ_RETRY_S)
            self._statistics.load_seconds.observe(self._clock.boottime_s() - started_s)

    async def _read(self, owned: OwnedPartition) -> None:
        """One whole read: new generations come in, known ones stay as they are, what is no longer there goes."""
        owned.unwatch()  # of a read that did not come to its end
        started_s = self._clock.boottime_s()
        snapshot = await self._reader.read(owned.number)
        for key in snapshot.corrupt:
            self._statistics.corrupt_records += 1
            _log.error("ledger_entry_corrupt", partition=owned.number, key=key.decode("utf-8", "replace"))
        owned.sequence = max(owned.sequence, snapshot.next_sequence)
        owned.journal_batches = max(owned.journal_batches, snapshot.journal_batches)
        seen: set[bytes] = set()
        async for page in snapshot.jobs():
            async with self._taking_in:
                await self._take_in(owned, page, snapshot.progress)
            if owned.phase is Phase.ENDED:
                return
            seen.update(kv.key for kv in page)
        for key in [key for key in owned.jobs if key not in seen]:
            self._remove(owned, key)
        if owned.phase is Phase.ENDED:
            return
        owned.saw(snapshot.revision)
        hear, lost = partial(self._changed, owned), partial(self._watch_lost, owned)
        watch = owned.watch = self._reader.watch(owned.number, snapshot.revision + 1, hear, lost)
        owned.see()
        if owned.phase is Phase.LOADING:
            if self._clock.boottime_s() - started_s > _OLD_S:
                await catch_up([owned], self._reader, self._untold)
            if owned.watch is not watch or owned.phase is not Phase.LOADING:
                return  # the watch was lost, and with it this read
            owned.phase, owned.suspended = Phase.FIRING, False
            async with self._taking_in:
                await self._arm(owned)
        self._rearm()

    async def _take_in(self, owned: OwnedPartition, page: list[KeyValue], progress: dict[int, Progress]) -> None:
        """A page of the partition's records; other work of the loop gets its turns."""
        fresh, until_s = 0, self._clock.boottime_s() + _SLICE_S
        for kv in page:
            if owned.phase is Phase.ENDED:
                return
            self._put(owned, kv, progress)
            fresh += 1
            if fresh == LOAD_SLICE or (fresh % 16 == 0 and self._clock.boottime_s() > until_s):
                self._kept(fresh)
                await asyncio.sleep(0)
                fresh, until_s = 0, self._clock.boottime_s() + _SLICE_S
        self._kept(fresh)

    async def _arm(self, owned: OwnedPartition) -> None:
        """Start the timers of a partition that has just come in; other work of the loop gets its turns."""
        now_ns = owned.firing_ns = self._clock.wall_ns()
        for taken, job in enumerate(list(owned.jobs.values()), 1):
            if job.state is _ARMED:
                self._statistics.taken_over_due += job.fire_ns <= now_ns
                self.timers.push(job)
            if taken % _ARM_SLICE == 0:
                await asyncio.sleep(0)

    def _watch_lost(self, owned: OwnedPartition, reason: str) -> None:
        owned.watch = None
        if owned.phase in {Phase.FIRING, Phase.LOADING} and self._tasks is not None:
            _log.warning("partition_watch_lost", partition=owned.number, reason=reason)
            self._statistics.resyncs += 1
            if owned.phase is Phase.FIRING:
                owned.go_blind(self.timers.cancel, self.hub.hold)
            if not owned.reading:
                owned.reading = True
                self._tasks.create_task(self._load(owned), name=f"engine resync of partition {owned.number}")

    def _changed(self, owned: OwnedPartition, revision: int, events: list[Event]) -> None:
        if owned.phase not in {Phase.LOADING, Phase.FIRING}:
            return
        owned.saw(revision)
        fresh = 0
        for is_delete, kv in events:
            if len(kv.key) < self._reader.key_start:
                continue  # a mark
            if is_delete:
                self._remove(owned, kv.key)
            else:
                self._put(owned, kv, {})
                fresh += 1
        self._kept(fresh)
        self._rearm()

    def _put(self, owned: OwnedPartition, kv: KeyValue, progress: dict[int, Progress]) -> None:
        try:
            job = job_of_record(kv.key, kv.value, kv.mod_revision, progress)
        except CorruptRecord as error:
            self._statistics.corrupt_records += 1
            _log.error("job_record_corrupt", partition=owned.number, error=str(error))
            self._remove(owned, kv.key)
            return
        known = owned.jobs.get(kv.key)
        if known is not None and known.generation == job.generation:
            known.revision = job.revision
            return
        job.partition = owned
        job.target = self.hub.target(target_key(kv.key[self._reader.key_start :]))
        owned.jobs[kv.key] = job
        if known is not None:
            self._let_go(known)
        else:
            job.target.namespace.jobs += 1
        if job.state is _DONE:
            self.commits.finished(owned, job)
        elif owned.phase is Phase.FIRING:
            self.timers.push(job)

    def _remove(self, owned: OwnedPartition, key: bytes) -> None:
        job = owned.jobs.pop(key, None)
        if job is not None:
            self._let_go(job)
            job.target.namespace.jobs -= 1
            owned.finished.pop(job.generation, None)

    # Jobs go out

    def may_fire(self) -> bool:
        """Whether the lease is trusted and the commits keep up."""
        if self.commits.full or not self._lease().may_act(self._clock.boottime_s()):
            self._block()
            return False
        return True

    def _block(self) -> None:
        """Look again soon: blocked is a state of emergency, where nothing else may come to wake us."""
        if not self._blocked:
            self._blocked = True
            self._statistics.blocked += 1
            asyncio.get_running_loop().call_later(_BLOCKED_RETRY_S, self._unblock)

    def _unblock(self) -> None:
        self._blocked = False
        if self.may_fire():
            self.hub.resume()
            self._run_due()

    def _rearm(self) -> None:
        """Make sure that the loop wakes up for the earliest job."""
        due_ns = self.timers.next_due_ns()
        if due_ns is None or (self._wake is not None and self._wake_ns <= due_ns):
            return
        if self._wake is not None:
            self._wake.cancel()
        delay_s = (due_ns - self._clock.wall_ns()) * 1e-9
        self._wake_ns = due_ns
        self._wake = asyncio.get_running_loop().call_later(min(_SLEEP_MAX_S, max(0.0, delay_s)), self._run_due)

    def _run_due(self) -> None:
        """Fire one slice of what is due."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self.may_fire():
            now_ns = self._clock.wall_ns()
            due = self.timers.pop_due(now_ns, FIRE_SLICE)
            offer = self.hub.offer
            for job in due:
                if job.trigger is None:
                    self._payloads.hold(job)
                else:
                    offer(job, now_ns)
            self._rearm()

    def _arm_held(self, job: Job) -> None:
        """The payload of a job that is due has come; one of a partition that is not fired is armed with that."""
        if job.partition.phase is Phase.FIRING:
            self.timers.push(job)
            self._rearm()

    def settle(self, job: Job, succeeded: bool) -> None:  # noqa: FBT001 - the hub's own two answers
        """A result: move the job's life on and hand it to the next commit."""
        now_ns = self._clock.wall_ns()
        if succeeded:
            job.succeed(now_ns)
        else:
            job.fail(now_ns)
            self._statistics.given_up += not job.attempts
        self._statistics.result(job.target.is_actor, succeeded, (now_ns - job.sent_ns) * 1e-9)
        job.sent_ns = now_ns
        self.commits.settled(job, now_ns)
        owned: OwnedPartition = job.partition
        if owned.drained is not None and not owned.in_flight:
            owned.drained.set()

    def _committed(self, jobs: list[Job]) -> None:
        """Progress is on disk: arm what goes on."""
        push = self.timers.push
        for job in jobs:
            state = job.state
            if state is State.SETTLED:
                phase = job.partition.phase
                if phase is Phase.FIRING or phase is Phase.LOADING:
                    job.state = _ARMED
                    if phase is Phase.FIRING:
                        push(job)
            elif state is _DONE:
                self.commits.finished(job.partition, job)
        self._rearm()

    # For operators and the watchdog

    def oldest_due_s(self) -> float:
        """Age of the oldest due occurrence that has not left, whatever it waits for."""
        return self._behind_s(movable=False)

    @property
    def movable_s(self) -> float:
        """How long the oldest due occurrence has been able to leave, and has not; 0 where firing is not allowed."""
        if self.commits.full or not self._lease().may_act(self._clock.boottime_s()):
            return 0.0
        return self._behind_s(movable=True)

    def _behind_s(self, *, movable: bool) -> float:
        held_ns = None if movable else self._payloads.oldest_held_ns()
        due = (self.timers.next_due_ns(), self.hub.oldest_waiting_ns(movable=movable), held_ns)
        oldest_ns = min((ns for ns in due if ns is not None), default=None)
        return 0.0 if oldest_ns is None else max(0.0, (self._clock.wall_ns() - oldest_ns) * 1e-9)

    def job_count(self) -> int:
        """Jobs in memory."""
        return sum(len(owned.jobs) for owned in self.partitions.values())
