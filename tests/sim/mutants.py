"""Faults put into the product on purpose, from outside: a simulation that does not find them proves nothing.

`python -m tests.sim.mutants` tells for each how many seeds it takes.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.cluster.cluster import Cluster
from scheduler.cluster.lease import Lease
from scheduler.core.duration import parse_go_duration
from scheduler.core.lifecycle import Job, Progress, State
from scheduler.core.tenure import Tenure
from scheduler.engine import engine as engine_module
from scheduler.engine.commits import Commits
from scheduler.engine.engine import FIRE_SLICE, Engine
from scheduler.engine.partition import OwnedPartition, Phase
from scheduler.engine.payloads import Payloads
from scheduler.etcd.api import Compare, CompareTarget, Delete, Outcome, Put
from scheduler.etcd.errors import EtcdError
from scheduler.store import jobs as store_jobs
from scheduler.store.partition import PartitionReader
from scheduler.store.progress import COMMIT_TIMEOUT_S, ProgressLog
from tests.sim.checker import NS
from tests.sim.replicas import WALL_START_S, Clock
from tests.sim.run import quiet
from tests.sim.world import run_seed

SEEDS_MAX = 100
Patch = tuple[Any, str, Any]
MUTANTS: dict[str, Callable[[], list[Patch]]] = {}


def mutant(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
    MUTANTS[make.__name__] = make
    return make


# Ownership and fences


@mutant
def no_token_compare() -> list[Patch]:
    """Commits do not compare the claim's epoch."""
    return [(ProgressLog, "_owned", lambda _self, _partition, _epoch: Compare(b"/none", CompareTarget.VERSION, 0))]


@mutant
def no_job_revision_compare() -> list[Patch]:
    """A finished job's record is deleted whatever generation it is by now."""

    async def delete_finished(self: ProgressLog, jobs: Any) -> Outcome:
        deletes = [Delete(job.key) for job in jobs]
        return (await self._etcd.txn((), deletes, timeout_s=COMMIT_TIMEOUT_S)).outcome

    return [(ProgressLog, "delete_finished", delete_finished)]


@mutant
def no_local_deadline() -> list[Patch]:
    """Firing goes on until etcd says that the lease is gone."""
    return [(Tenure, "may_act", lambda _self, _now_s: True)]


@mutant
def deadline_on_the_wall_clock() -> list[Patch]:
    """The lease's term is measured by a clock that people set."""
    return [(Clock, "boottime_s", lambda self: self.wall_ns() / NS)]


@mutant
def lost_claim_not_adopted() -> list[Patch]:
    """A claim whose answer was lost is not taken for ours when it is found."""
    claim, gain = Cluster._claim, Cluster._gain

    async def marked(self: Any, partitions: list[int]) -> None:
        self.claiming = True
        try:
            await claim(self, partitions)
        finally:
            self.claiming = False

    def only_while_claiming(self: Any, partition: int, epoch: int) -> None:
        if getattr(self, "claiming", False):
            gain(self, partition, epoch)

    return [(Cluster, "_claim", marked), (Cluster, "_gain", only_while_claiming)]


@mutant
def stops_while_the_lease_is_in_doubt() -> list[Patch]:
    """Firing stops when the lease is not trusted, and nobody looks again."""
    return [(Engine, "_block", lambda _self: None)]


@mutant
def keepalive_without_deadline() -> list[Patch]:
    """One keepalive at a time, and the next only after the answer."""

    async def keep(self: Lease) -> None:
        while True:
            started_s = self._clock.boottime_s()
            try:
                ttl_s = await self._etcd.lease_keep_alive(self.id, timeout_s=1e6)
            except EtcdError:
                ttl_s = -1.0
            if ttl_s > 0:
                self.tenure.renew(started_s, ttl_s, self._clock.boottime_s())
                self.tenure.confirm(self.tenure.lapses)
            elif ttl_s == 0:
                self.give_up()
            await asyncio.sleep(self._ttl_s / 4)

    return [(Lease, "keep", keep)]


@mutant
def fires_outside_the_check() -> list[Patch]:
    """Between the look at the lease and the sending lies another callback."""

    def run_due(self: Engine) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self.may_fire():
            due = self.timers.pop_due(self._clock.wall_ns(), FIRE_SLICE)
            for job in due:
                if job.trigger is None:
                    self._payloads.hold(job)
                else:
                    asyncio.get_running_loop().call_later(0.002, later, self, job)
            self._rearm()

    def later(self: Engine, job: Job) -> None:
        if job.state is State.ARMED:
            self.hub.offer(job, self._clock.wall_ns())

    return [(Engine, "_run_due", run_due)]


@mutant
def refused_step_ends_the_process() -> list[Patch]:
    """(Found by seeds 5, 10, 14.) What etcd refuses while a replica takes its part is nobody's business."""
    work = Cluster._work

    async def unguarded(self: Cluster) -> None:
        publish = self._publish

        async def loud() -> None:
            try:
                await publish()
            except EtcdError as error:
                raise RuntimeError(error) from error

        self._publish = loud  # type: ignore[method-assign]
        await work(self)

    return [(Cluster, "_work", unguarded)]


@mutant
def says_only_once_that_it_serves() -> list[Patch]:
    """(Found by reading.) What a replica says of itself, and etcd refuses, is not said again."""
    publish = Cluster._publish

    async def once(self: Any) -> None:
        words = (self.lease, self._member.state)
        if getattr(self, "said", None) != words:
            self.said = words
            await publish(self)

    return [(Cluster, "_publish", once)]


@mutant
def claims_what_it_is_releasing() -> list[Patch]:
    """(Found by seed 262.) A partition won back before the release's answer came is lost again with that answer."""
    step = Cluster._step

    async def blind(self: Any, settled_at_s: float) -> None:
        claim = self._claim
        moving = self._moving

        async def all_free(partitions: list[int]) -> None:
            wanted = [one for one in moving if one not in self._view.claims and one not in partitions]
            await claim([*partitions, *wanted])

        self._claim = all_free
        try:
            await step(self, settled_at_s)
        finally:
            del self._claim

    return [(Cluster, "_step", blind)]


# Progress


@mutant
def armed_before_the_commit() -> list[Patch]:
    """The next occurrence is armed when the one before it is acknowledged."""
    settle = Engine.settle

    def hasty(self: Engine, job: Job, succeeded: bool) -> None:
        settle(self, job, succeeded)
        if job.state is State.SETTLED and job.partition.phase is Phase.FIRING:
            job.state = State.ARMED
            self.timers.push(job)
            self._rearm()

    return [(Engine, "settle", hasty)]


@mutant
def missed_ticks_skipped() -> list[Patch]:
    """Catching up leaves out what is over."""
    succeed = Job.succeed

    def skipping(self: Job, now_ns: int) -> None:
        succeed(self, now_ns)
        while self.state is State.SETTLED and self.planned_ns < now_ns - NS and self.schedule is not None:
            self.planned_ns = self.fire_ns = self.schedule.next_after(self.planned_ns)

    return [(Job, "succeed", skipping)]


@mutant
def unknown_commit_taken_for_failed() -> list[Patch]:
    """A commit without an answer is given up, with the partitions that it was for."""
    append = ProgressLog.append

    async def gives_up(self: ProgressLog, batches: Any) -> tuple[Outcome, set[int]]:
        outcome, lost = await append(self, batches)
        if outcome is Outcome.UNKNOWN:
            return Outcome.REJECTED, {batch.partition for batch in batches}
        return outcome, lost

    return [(ProgressLog, "append", gives_up)]


@mutant
def unknown_commit_taken_for_done() -> list[Patch]:
    """A commit without an answer is believed."""
    append = ProgressLog.append

    async def believes(self: ProgressLog, batches: Any) -> tuple[Outcome, set[int]]:
        outcome, lost = await append(self, batches)
        return (Outcome.COMMITTED if outcome is Outcome.UNKNOWN else outcome), lost

    return [(ProgressLog, "append", believes)]


@mutant
def due_time_counted_anew_on_load() -> list[Patch]:
    """A relative due time is resolved again by whoever loads the job."""
    job_of_record = engine_module.job_of_record

    def anew(key: bytes, value: bytes, revision: int, progress: dict[int, Progress]) -> Job:
        job = job_of_record(key, value, revision, progress)
        due_time = JobRecord.FromString(value).due_time
        if job.count == 0 and job.attempts == 0 and job.state is State.ARMED and due_time.endswith("s"):
            now_ns = int((asyncio.get_running_loop().time() + WALL_START_S) * NS)
            job.planned_ns = job.fire_ns = now_ns + parse_go_duration(due_time)
        return job

    return [(engine_module, "job_of_record", anew)]


@mutant
def folded_journal_left() -> list[Patch]:
    """Deleted jobs' counters stay: a checkpoint deletes nothing of what it folds."""

    async def fold(self: ProgressLog, fold: Any) -> Outcome:
        for number, part in enumerate(fold.parts):
            put = Put(self._keys.checkpoint(fold.partition, fold.sequence, number), part)
            outcome = (await self._etcd.txn((self._owned(fold.partition, fold.epoch),), (put,))).outcome
            if outcome is not Outcome.COMMITTED:
                return outcome
        return Outcome.COMMITTED

    return [(ProgressLog, "fold", fold)]


@mutant
def checkpoint_cut_short() -> list[Patch]:
    """A checkpoint of several parts is written by its first alone."""
    fold = ProgressLog.fold

    async def first_part(self: ProgressLog, one: Any) -> Outcome:
        return await fold(self, one._replace(parts=one.parts[:1]))

    return [(ProgressLog, "fold", first_part)]


@mutant
def checkpoint_without_finished_jobs() -> list[Patch]:
    """A job that is finished, and whose record is not deleted yet, has no place in the checkpoint."""
    fold = Commits._fold

    async def forgetful(self: Commits, owned: OwnedPartition) -> None:
        jobs = owned.jobs
        owned.jobs = {key: job for key, job in jobs.items() if job.state is not State.DONE}
        folding = fold(self, owned)
        try:
            await folding
        finally:
            for key, job in jobs.items():
                if job.state is State.DONE:
                    owned.jobs.setdefault(key, job)

    return [(Commits, "_fold", forgetful)]


@mutant
def cannot_commit_ignored() -> list[Patch]:
    """Out of space, no majority: firing goes on however much waits for a commit."""
    return [(Commits, "full", property(lambda _self: False))]


@mutant
def hand_over_without_flush() -> list[Patch]:
    """What was acknowledged last is not committed before the claim goes."""

    async def flush(_self: Commits, _owned: OwnedPartition) -> None:
        pass

    return [(Commits, "flush", flush)]


@mutant
def queued_calls_wait_for_those_before() -> list[Patch]:
    """A write that waits behind groups without an answer has no age."""
    return [(store_jobs, name, 1e9) for name in ("QUEUED_MAX_S", "SENT_MAX_S", "ANSWER_MAX_S")]


# Payloads that rest


@mutant
def payload_not_loaded_again() -> list[Patch]:
    """What rests is never read again."""
    return [(Payloads, "want", lambda _self, _job: None)]


@mutant
def payload_load_not_repeated() -> list[Patch]:
    """A payload that etcd did not give at the first try is forgotten."""
    trigger = PartitionReader.trigger

    async def once(self: PartitionReader, key: bytes, generation: int) -> bytes | None:
        try:
            return await trigger(self, key, generation)
        except EtcdError:
            return None

    return [(PartitionReader, "trigger", once)]


@mutant
def held_job_forgotten() -> list[Patch]:
    """A job that is due before its payload is here is not looked at again when it has come."""
    came = Payloads._came
    return [(Payloads, "_came", lambda self, job, trigger: came(self, job, trigger) and False)]


# Reading


@mutant
def lost_watch_ignored() -> list[Patch]:
    """A partition's watch that was cancelled is not made again."""
    return [(Engine, "_watch_lost", lambda _self, _owned, _reason: None)]


@mutant
def resumes_with_a_stale_watch() -> list[Patch]:
    """When the lease is trusted again firing goes on with what was known before."""

    async def confirm(self: Lease) -> None:
        self.tenure.confirm(self.tenure.lapses)
        self._confirming = False

    return [(Lease, "_confirm", confirm)]


@mutant
def lost_cluster_watch_ignored() -> list[Patch]:
    """The watch on members and claims that was cancelled is not made again."""
    return [(Cluster, "_watch_lost", lambda _self, _reason: None)]


@mutant
def resync_drops_staged_jobs() -> list[Patch]:
    """Reading a partition again forgets who waits for a stream."""
    read = Engine._read

    async def dropping(self: Engine, owned: OwnedPartition) -> None:
        if owned.phase is Phase.FIRING:
            for job in owned.jobs.values():
                if job.state is State.WAITING:
                    self._let_go(job)
        await read(self, owned)

    return [(Engine, "_read", dropping)]


@mutant
def finished_job_forgotten_early() -> list[Patch]:
    """(Found by seed 48.) A finished job leaves memory with its record, not by the watch: a read that began before brings it back."""
    drop = Commits._drop

    def early(self: Commits, batch: list[Job]) -> None:
        drop(self, batch)
        for job in batch:
            if job.partition.jobs.get(job.key) is job:
                del job.partition.jobs[job.key]
                job.state = State.GONE

    return [(Commits, "_drop", early)]


@contextmanager
def switched_on(name: str) -> Iterator[None]:
    """The product with one mutant in it."""
    with ExitStack() as stack:
        for target, attribute, replacement in MUTANTS[name]():
            stack.enter_context(mock.patch.object(target, attribute, replacement))
        yield


def seeds_until_caught(name: str, start: int, most: int = SEEDS_MAX) -> tuple[int, str]:
    """How many seeds from `start` on it takes, and what the last one says; (0, "") where `most` are not enough."""
    quiet()
    with switched_on(name):
        for count in range(1, most + 1):
            violation = run_seed(start + count - 1).checker.violation
            if violation is not None:
                return count, str(violation)
    return 0, ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="all by default")
    parser.add_argument("--trials", type=int, default=5, help="each begins at another seed")
    arguments = parser.parse_args()
    print("| mutant | median seeds | most | verdicts |\n| --- | --- | --- | --- |")
    missed = 0
    for name in arguments.names or MUTANTS:
        trials = [seeds_until_caught(name, 10_000 * trial + 1) for trial in range(arguments.trials)]
        counts = [count or SEEDS_MAX + 1 for count, _ in trials]
        verdicts = sorted({text.split(":")[0] for _, text in trials if text})
        missed += min(counts) > SEEDS_MAX
        print(f"| `{name}` | {statistics.median(counts):g} | {max(counts)} | {', '.join(verdicts)} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
