"""Group commit of progress: what was acknowledged since the last commit leaves in one fenced transaction, the next as soon as it pays.

Also the two chores behind it: folding long journals into checkpoints, and deleting the records of finished jobs in batches.
"""

import asyncio
from collections.abc import Callable
from itertools import islice

from scheduler.aio.clock import Clock
from scheduler.core.lifecycle import Job, State
from scheduler.engine.partition import OwnedPartition, Phase
from scheduler.etcd.api import Outcome
from scheduler.etcd.errors import EtcdError
from scheduler.logs import get_logger
from scheduler.metrics import EngineStatistics
from scheduler.store.ledger import ENTRY_BYTES, encode_batch, pack_job
from scheduler.store.progress import CHECKPOINT_PART_BYTES, Append, Finished, Fold, ProgressLog

_GONE, _SETTLED = State.GONE, State.SETTLED
# A commit waits this long for company: each one writes a batch per partition, so its cost hardly depends on its size.
# What it costs is exposure: results that a crash in this time would have delivered again.
LINGER_S = 0.15
_LINGER_NS = 150_000_000
# This many settled jobs are company enough.
_COMPANY = 2_048
_COMMIT_JOBS_MAX = 4_096
# After so many jobs that are packed, or go on after their commit, or entries of a checkpoint, other work of the loop gets its turn: two milliseconds.
_PACK_SLICE = 1_024
_TELL_SLICE = 1_024
_FOLD_SLICE = 2_048
_RETRY_S = (0.02, 1.0)
# A journal is folded when it holds this many batches, or more entries than this and twice the jobs that it tells of.
_FOLD_BATCHES = 256
_FOLD_ENTRIES = 2_048
_DELETE_LINGER_S = 0.2

_log = get_logger("engine.commits")


class Commits:
    """The settled jobs of all partitions, on their way into the ledger."""

    def __init__(
        self,
        *,
        log: ProgressLog,
        clock: Clock,
        statistics: EngineStatistics,
        window: int,
        committed: Callable[[list[Job]], None],
        lost: Callable[[int], None],
    ) -> None:
        """`committed(jobs)` hears of each commit; `lost(partition)` of claims that turned out not to be ours."""
        self._log = log
        self._clock = clock
        self._statistics = statistics
        self._window = window
        self._on_committed = committed
        self._on_lost = lost
        self._dirty: dict[OwnedPartition, None] = {}
        self.uncommitted = 0
        self._urgent = False
        self._wakeup = asyncio.Event()
        self._enough = asyncio.Event()
        self._idle = asyncio.Event()
        # Partitions with records of finished jobs to delete, in turn.
        self._finished: dict[OwnedPartition, None] = {}
        self._finished_wakeup = asyncio.Event()
        # Attempts that have ended, however they did; since when and why they fail.
        self.attempts = 0
        self._failing_since_s: float | None = None
        self._failure = ""

    def failing(self, for_s: float) -> str | None:
        """What etcd says to commits, if it has taken none for so long that something waits; None: it takes them."""
        since_s = self._failing_since_s
        if since_s is None or self._clock.boottime_s() - since_s < for_s:
            return None
        return self._failure

    @property
    def full(self) -> bool:
        """Too much is acknowledged and not committed: nothing more may be fired."""
        return self.uncommitted >= self._window

    def settled(self, job: Job, now_ns: int) -> None:
        """A job has settled: it goes out with the next commit."""
        owned: OwnedPartition = job.partition
        if not owned.settled:
            self._dirty[owned] = None
        owned.settled.append(job)
        self.uncommitted += 1
        if self.uncommitted == 1:
            self._wakeup.set()
        if self.uncommitted >= _COMPANY or (job.fire_ns <= now_ns + _LINGER_NS and job.state is _SETTLED):
            # Enough company; or a job whose next occurrence would have to wait for nothing but this commit.
            self._enough.set()

    def forget(self, owned: OwnedPartition) -> None:
        """The partition is not ours any more: nothing more of it is written."""
        self.uncommitted -= len(owned.settled)
        owned.settled = []
        self._dirty.pop(owned, None)
        self._finished.pop(owned, None)
        owned.finished.clear()

    async def flush(self, owned: OwnedPartition) -> None:
        """Wait until all that has settled of a partition is committed, or the partition is lost."""
        while owned.settled or owned.committing:
            self._wakeup.set()
            self._enough.set()
            self._idle.clear()
            await self._idle.wait()

    async def run(self) -> None:
        """Commit until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._dirty:
                self._wakeup.clear()
                self._idle.set()
                await self._wakeup.wait()
            if not self._enough.is_set():
                handle = loop.call_later(LINGER_S, self._enough.set)
                await self._enough.wait()
                handle.cancel()
            self._enough.clear()
            if self._dirty:
                await self._commit()
            self._idle.set()

    async def _commit(self) -> None:
        """Take what has settled, of as many partitions as fit a transaction, and see it through."""
        taken: list[tuple[OwnedPartition, list[Job], Append]] = []
        count = packed = 0
        for owned in list(self._dirty):
            if len(taken) >= self._log.max_txn_ops or count >= _COMMIT_JOBS_MAX:
                self._enough.set()
                break
            if count - packed >= _PACK_SLICE:
                packed = count
                await asyncio.sleep(0)
            if owned not in self._dirty:  # lost meanwhile
                continue
            jobs, owned.settled = owned.settled[:_COMMIT_JOBS_MAX], owned.settled[_COMMIT_JOBS_MAX:]
            if not owned.settled:
                del self._dirty[owned]
            value = encode_batch([pack_job(job) for job in jobs])
            taken.append((owned, jobs, Append(owned.number, owned.epoch, owned.sequence, value)))
            owned.sequence += 1
            owned.committing = True
            count += len(jobs)
        sent = [owned for owned, _, _ in taken]
        try:
            await self._see_through(taken)
        finally:
            for owned in sent:
                owned.committing = False
        self.uncommitted -= count
        told = 0
        for owned, jobs, _ in taken:
            owned.journal_batches += 1
            owned.journal_entries += len(jobs)
            if owned.phase is not Phase.ENDED:
                self._on_committed(jobs)
                told += len(jobs)
                if told >= _TELL_SLICE:
                    told = 0
                    await asyncio.sleep(0)
        for owned, _, _ in taken:
            if self._wants_fold(owned):
                await self._fold(owned)

    async def _see_through(self, taken: list[tuple[OwnedPartition, list[Job], Append]]) -> None:
        """Send the same batches until they are committed, leaving out partitions that turn out not to be ours."""
        retry_s = _RETRY_S[0]
        while taken:
            started_s = self._clock.boottime_s()
            try:
                outcome, lost = await self._log.append([append for _, _, append in taken])
            except EtcdError as error:
                outcome, lost = Outcome.UNKNOWN, set()
                self._failure = str(error)
                _log.warning("commit_failed", error=str(error), uncommitted=self.uncommitted)
            else:
                self._failure = "no answer in time"
            self.attempts += 1
            if outcome is not Outcome.UNKNOWN:
                self._failing_since_s = None
            elif self._failing_since_s is None:
                self._failing_since_s = started_s
            if outcome is Outcome.COMMITTED:
                self._statistics.commit_seconds.observe(self._clock.boottime_s() - started_s)
                self._statistics.commits += 1
                return
            if outcome is Outcome.REJECTED:
                self._statistics.fenced_writes += 1
                for owned, _, append in [entry for entry in taken if entry[2].partition in lost]:
                    _log.warning("commit_fenced", partition=append.partition, epoch=append.epoch)
                    if owned.phase is not Phase.ENDED:
                        self._on_lost(append.partition)
                taken[:] = [entry for entry in taken if entry[2].partition not in lost]
                continue
            self._statistics.commit_retries += 1
            await asyncio.sleep(retry_s)
            retry_s = min(_RETRY_S[1], retry_s * 2)

    def _wants_fold(self, owned: OwnedPartition) -> bool:
        if owned.phase is not Phase.FIRING:
            return False
        entries = owned.journal_entries
        return owned.journal_batches >= _FOLD_BATCHES or (entries >= _FOLD_ENTRIES and entries >= 2 * len(owned.jobs))

    async def _fold(self, owned: OwnedPartition) -> None:
        """Write the partition's progress as one checkpoint; on any trouble the journal simply grows on."""
        sequence = owned.sequence
        jobs = [job for job in owned.jobs.values() if job.count or job.attempts or job.state is State.DONE]
        entries: list[bytes] = []
        for start in range(0, len(jobs), _FOLD_SLICE):
            # What moves on while others have their turn is told as it stands then: later is as good, see `Progress.supersedes`.
            entries += map(pack_job, jobs[start : start + _FOLD_SLICE])
            await asyncio.sleep(0)
        step = CHECKPOINT_PART_BYTES // ENTRY_BYTES
        parts = [encode_batch(entries[start : start + step]) for start in range(0, len(entries), step)]
        owned.journal_batches = owned.journal_entries = 0
        try:
            outcome = await self._log.fold(Fold(owned.number, owned.epoch, sequence, parts or [encode_batch([])]))
        except EtcdError as error:
            _log.warning("checkpoint_failed", partition=owned.number, error=str(error))
            return
        self._statistics.checkpoints += outcome is Outcome.COMMITTED

    # Records of finished jobs

    def finished(self, owned: OwnedPartition, job: Job) -> None:
        """The job's end is committed: its record goes, in company."""
        owned.finished[job.generation] = job
        if not self._finished:
            self._finished_wakeup.set()
        self._finished[owned] = None

    async def run_deletions(self) -> None:
        """Delete records of finished jobs until cancelled; firing never waits for this."""
        while True:
            if not self._finished:
                self._finished_wakeup.clear()
                await self._finished_wakeup.wait()
                await asyncio.sleep(_DELETE_LINGER_S)
            batch = self._next_finished()
            live = [Finished(job.key, job.revision) for job in batch if job.state is not _GONE]
            try:
                if live and await self._log.delete_finished(live) is Outcome.UNKNOWN:
                    continue
            except EtcdError as error:
                _log.warning("deletion_failed", error=str(error))
                await asyncio.sleep(_RETRY_S[1])
                continue
            self._drop(batch)

    def _next_finished(self) -> list[Job]:
        """Jobs of as few partitions as fill a transaction: what it deletes of a partition comes back as one message of its watch."""
        batch: list[Job] = []
        for owned in list(self._finished):
            left = self._log.max_txn_ops - len(batch)
            if not left:
                break
            batch += islice(owned.finished.values(), left)
            # To the end of the line, or out of it.
            del self._finished[owned]
            if owned.finished:
                self._finished[owned] = None
        return batch

    def _drop(self, batch: list[Job]) -> None:
        """The records are gone, or belong to later generations by now.

        The jobs themselves leave as they came, by the watch: were one forgotten here, a read that began before would bring it back to life.
        """
        for job in batch:
            job.partition.finished.pop(job.generation, None)
        self._statistics.finished += len(batch)
