"""The promises, checked while a simulation runs, from outside: by what etcd applied, what sidecars saw and answered, and what clients were told.

The oracle of due times and the reader of the ledger are its own; of the product it sees only each decision to fire and each result taken in.
"""

import struct
from collections.abc import Callable
from typing import Any

from scheduler._pb.dapr.proto.common.v1.common_pb2 import JobFailurePolicy
from scheduler._pb.dapr.proto.scheduler.v1.scheduler_pb2 import WatchJobsResponse
from scheduler._pb.scheduler_storage.v1.storage_pb2 import Claim, JobRecord, LedgerBatch
from scheduler.etcd.api import Event

NS = 1_000_000_000
_ENTRY = struct.Struct("<QIIqq")
_DONE = 1 << 31
NOTHING = (False, 0, 0)
# A deleted or overwritten job is not fired later than this where its owner has had no trouble since, and not later than this and a lease's term whatever
# its owner has gone through (promise G8).
STALE_S = 1.0


class Violation(Exception):
    """A promise is broken."""

    def __init__(self, verdict: str, text: str, subject: object = None) -> None:
        super().__init__(f"{verdict}: {text}")
        self.verdict = verdict
        self.subject = subject


class Version:
    """One accepted write of a job, and what has become of it."""

    def __init__(self, key: bytes, partition: int, record: JobRecord, now_s: float) -> None:
        self.key = key
        self.partition = partition
        self.record = record
        self.generation = record.generation
        self.created_s = now_s
        self.ended_s: float | None = None
        self.done_s: float | None = None
        self.ended_by = ""
        self.progress = NOTHING  # what etcd holds, as a reader would merge it
        self.history: list[tuple[float, tuple[bool, int, int]]] = []
        self.fires: dict[tuple[int, int], dict[int, Fire]] = {}  # by (occurrence, attempt), then by the owner's epoch
        self.succeeded: set[int] = set()  # occurrences that a sidecar has acknowledged
        self.failed: dict[int, set[int]] = {}  # attempts that a sidecar has reported as failed
        self.first_ns = record.first.seconds * NS + record.first.nanos if record.HasField("first") else None
        self.expires_ns = record.expires.seconds * NS + record.expires.nanos if record.HasField("expires") else None
        self.repeats = record.repeats if record.HasField("repeats") else None
        policy = JobFailurePolicy.FromString(record.failure_policy)
        self.max_retries: int | None = 0
        if policy.WhichOneof("policy") == "constant":
            self.max_retries = policy.constant.max_retries if policy.constant.HasField("max_retries") else None
        self._due: list[int | None] = []

    def planned(self, index: int) -> int | None:
        """The oracle: when occurrence `index` is due; None: there is none."""
        due = self._due
        while len(due) <= index:
            if not due:
                following = self.first_ns
            elif due[-1] is None or not self.record.HasField("schedule"):
                following = None
            else:
                following = _following(self.record.schedule, due[-1])
            beyond = following is not None and self.expires_ns is not None and following > self.expires_ns
            if beyond or (self.repeats is not None and len(due) >= self.repeats):
                following = None
            due.append(following)
        return due[index]

    def settled(self, index: int) -> bool:
        """Whether the sidecars' answers finish an occurrence."""
        retries = self.max_retries
        return index in self.succeeded or (retries is not None and len(self.failed.get(index, ())) > retries)

    def __repr__(self) -> str:
        return f"{self.key.decode()} generation {self.generation:x} progress {self.progress}"


def _following(schedule: str, after_ns: int) -> int:
    """The two kinds of schedules that the simulation uses: "@every Ns" and "*/N * * * * *"."""
    if schedule.startswith("@every "):
        return after_ns + int(float(schedule.removeprefix("@every ").removesuffix("s")) * NS)
    step_ns = int(schedule.split(maxsplit=1)[0].removeprefix("*/")) * NS
    return after_ns // step_ns * step_ns + step_ns


def _window(host: Any) -> int:
    """What a replica may have in flight, on a stream of each of two apps, and uncommitted."""
    return host.settings.commit_window + 2 * host.settings.in_flight_per_stream


class Fire:
    __slots__ = ("at_s", "epoch", "host", "stream")

    def __init__(self, at_s: float, host: Any, epoch: int, stream: Any) -> None:
        self.at_s = at_s
        self.host = host
        self.epoch = epoch
        self.stream = stream


class Owner:
    """A claim."""

    def __init__(self, incarnation: int, epoch: int, lease: int) -> None:
        self.incarnation = incarnation
        self.epoch = epoch
        self.lease = lease
        # Results taken in under this claim that etcd does not have yet: generation to the progress that they make.
        self.unsaved: dict[int, tuple[int, int]] = {}


class Checker:
    """Raises nothing itself: the first violation is kept, and the run stops on it."""

    def __init__(self, *, now: Callable[[], float], log: Callable[..., None], ttl_s: float, margin_s: float) -> None:
        self.now = now
        self.log = log
        self.ttl_s = ttl_s
        self.margin_s = margin_s
        self.violation: Violation | None = None
        self.versions: dict[int, Version] = {}
        self.alive: dict[bytes, Version] = {}
        self.owners: dict[int, Owner] = {}
        self.ended: dict[tuple[int, int], tuple[float, str]] = {}  # (partition, epoch) to when and why a claim ended
        # By what one disturbance has cost: the versions that were fired once more because of it.
        self.charged: dict[tuple[Any, ...], set[int]] = {}
        self.ledger: dict[int, dict[bytes, dict[int, tuple[bool, int, int]]]] = {}
        self.deletes: dict[bytes, list[Any]] = {}
        self.reason = "released"
        self.finished: Callable[[bytes], None] = lambda _key: None
        self.counts = dict.fromkeys(("fires", "repeated", "commits", "checkpoints", "owners", "finished", "stale"), 0)

    def fail(self, verdict: str, text: str, subject: object = None) -> None:
        if self.violation is None:
            self.violation = Violation(verdict, text, subject)
            self.log("VIOLATION", verdict, text)

    # What etcd applies

    def revision(self, revision: int, events: list[Event], sender: Any) -> None:
        """One revision, and the client whose request made it (None: etcd itself)."""
        name = sender.name if sender is not None else "etcd"
        for is_delete, kv in events:
            parts = kv.key.split(b"/", 4)
            kind = parts[2]
            if kind == b"jobs" and len(parts) == 5:
                self._job(is_delete, kv.key, kv.value, int(parts[3]), name)
            elif kind == b"ledger":
                self._ledger(is_delete, kv, int(parts[3]), parts[4].startswith(b"checkpoint"), sender)
            elif kind == b"claims":
                self._claim(is_delete, kv, int(parts[3]), revision, name)

    def _claim(self, is_delete: bool, kv: Any, partition: int, revision: int, name: str) -> None:
        if is_delete:
            owner = self.owners.pop(partition)
            self.ended[partition, owner.epoch] = (self.now(), self.reason)
            self.log("claim ended", partition, owner.epoch, self.reason)
            if self.reason == "released":
                for generation, (count, attempts) in owner.unsaved.items():
                    version = self.versions[generation]
                    if version.ended_s is None:
                        text = f"partition {partition} handed over with {count, attempts} of {version!r} not committed"
                        self.fail("lost_result", text, version)
            return
        if partition in self.owners:
            self.fail("two_owners", f"claim of partition {partition} is overwritten")
        claim = Claim.FromString(kv.value)
        self.owners[partition] = Owner(claim.incarnation, revision, kv.lease)
        self.counts["owners"] += 1
        self.log("claim", partition, revision, name)

    def _job(self, is_delete: bool, key: bytes, value: bytes, partition: int, name: str) -> None:
        old = self.alive.pop(key, None)
        if old is not None:
            old.ended_s = self.now()
            finished = old.progress[0] or old.planned(0) is None
            old.ended_by = "overwritten" if not is_delete else "finished" if finished else "deleted"
            self.log("job ended", key, old.generation, old.ended_by, name)
            owner = self.owners.get(partition)
            if owner is not None:
                owner.unsaved.pop(old.generation, None)
            if old.ended_by == "finished":
                self.counts["finished"] += 1
            elif is_delete and not any(one.may_have_deleted(old) for one in self.deletes.get(key, ())):
                self.fail("lost", f"{old!r} is deleted by {name}: it is not finished and nobody asked for it", old)
        if not is_delete:
            version = Version(key, partition, JobRecord.FromString(value), self.now())
            self.versions[version.generation] = self.alive[key] = version
            self.log("job", key, version.generation, name)

    def _ledger(self, is_delete: bool, kv: Any, partition: int, checkpoint: bool, sender: Any) -> None:
        owner = self.owners.get(partition)
        if owner is None or sender is None or owner.incarnation != sender.incarnation:
            who = sender.name if sender is not None else "etcd"
            self.fail("stale_commit", f"{who} writes {kv.key.decode()} of partition {partition}, which is not its own")
        batches = self.ledger.setdefault(partition, {})
        old = batches.pop(kv.key, {})
        new: dict[int, tuple[bool, int, int]] = {}
        if not is_delete:
            self.counts["checkpoints" if checkpoint else "commits"] += 1
            for generation, count, flags, last_ns, _ in _ENTRY.iter_unpack(LedgerBatch.FromString(kv.value).entries):
                entry = (bool(flags & _DONE), count, flags & (_DONE - 1))
                new[generation] = max(entry, new.get(generation, NOTHING))
                self._entry(generation, entry, last_ns, sender.server.sent_s, partition)
            batches[kv.key] = new
        for generation in old.keys() - new.keys() if is_delete else old:
            version = self.versions[generation]
            best = max((batch.get(generation, NOTHING) for batch in batches.values()), default=NOTHING)
            if best < version.progress and version.ended_s is None:
                text = f"{kv.key.decode()} goes, and with it {version.progress} of {version!r}: {best} is left"
                self.fail("counter_regress", text, version)

    def _entry(
        self, generation: int, entry: tuple[bool, int, int], last_ns: int, sent_s: float, partition: int
    ) -> None:
        version = self.versions.get(generation)
        if version is None:
            self.fail("ghost", f"the ledger tells of generation {generation:x}, which nobody wrote")
            return
        known = version.progress
        if entry < known:
            # A late one may land behind those that were sent after it; merging takes the greatest.
            if version.ended_s is None and any(at_s < sent_s and entry < then for at_s, then in version.history):
                self.fail("counter_regress", f"{entry} written for {version!r}", version)
            return
        owner = self.owners.get(partition)
        if owner is not None and (unsaved := owner.unsaved.get(generation)) is not None and unsaved <= entry[1:]:
            del owner.unsaved[generation]
        if entry == known:
            return
        version.progress = entry
        version.history.append((self.now(), entry))
        self.log("commit", version.key, generation, *entry)
        done, count, attempts = entry
        if done:
            version.done_s = self.now()
            self.finished(version.key)
        for index in range(known[1], count):
            if not version.settled(index):
                self.fail(
                    "lost", f"occurrence {index} is committed as finished, and nobody finished it: {version!r}", version
                )
        if attempts > len(version.failed.get(count, ())):
            self.fail("attempts", f"more attempts are committed than have failed: {version!r}", version)
        if version.repeats is not None and count > version.repeats:
            self.fail("over_repeat", f"{count} of {version.repeats} occurrences: {version!r}", version)
        # (What is committed of a version that has ended meanwhile tells nobody anything.)
        if version.ended_s is None and done != (version.planned(count) is None):
            self.fail(
                "done", f"marked {'done' if done else 'not done'} after {count} occurrences: {version!r}", version
            )
        if count and last_ns != version.planned(count - 1):
            self.fail(
                "wrong_time", f"last scheduled time {last_ns}, not {version.planned(count - 1)}: {version!r}", version
            )

    def lease_ended(self, lease_id: int, reason: str) -> None:
        """Etcd is about to delete a lease's keys (0: it has done so; claims that go from now on are given up by their owners)."""
        self.reason = reason
        if lease_id:
            self.log("lease ended", lease_id, reason)

    # What replicas decide

    def fire(self, host: Any, job: Any, stream: Any) -> None:
        """A replica has decided to send a trigger."""
        now_s, epoch, partition = self.now(), job.partition.epoch, job.partition.number
        index, attempts = job.count, job.attempts
        self.counts["fires"] += 1
        self.log("fire", job.key, job.generation, index, attempts, host.name, epoch)
        version = self.versions.get(job.generation)
        if version is None:
            self.fail("ghost", f"{host.name} fires generation {job.generation:x}, which nobody wrote")
            return
        planned = version.planned(index)
        if planned is None or job.planned_ns != planned:
            self.fail(
                "wrong_time", f"occurrence {index} is planned for {job.planned_ns}, not {planned}: {version!r}", version
            )
        elif (wall_ns := host.clock.highest_ns(version.created_s)) < planned:
            early_s = (planned - wall_ns) / NS
            self.fail("early", f"occurrence {index} is fired {early_s:.3f} s early: {version!r}", version)
        trusted_s = max(host.client.trusted_s.values(), default=float("-inf")) + self.ttl_s - self.margin_s
        if now_s >= trusted_s + 1e-6:
            text = f"{host.name} fires {now_s - trusted_s:.3f} s after its lease ceased to be trusted: {version!r}"
            self.fail("stale_fire", text, version)
        if version.ended_s is not None:
            late_s = now_s - version.ended_s
            if late_s > (STALE_S if host.calm_for_s() >= late_s else STALE_S + self.ttl_s):
                self.fail(
                    "stale_version", f"fired {late_s:.3f} s after it was {version.ended_by}: {version!r}", version
                )
        self._fence(host, version, (index, attempts), epoch, partition)
        self._repeat(host, version, (index, attempts), epoch, stream)

    def _fence(self, host: Any, version: Version, at: tuple[int, int], epoch: int, partition: int) -> None:
        owner = self.owners.get(partition)
        if owner is not None and owner.incarnation == host.incarnation and owner.epoch == epoch:
            if version.ended_s is None:
                if at > version.progress[1:]:
                    self.fail("reordered", f"{at} is fired before the one before it is committed: {version!r}", version)
                elif at < version.progress[1:]:
                    self.fail("refired", f"{at} is fired though it is committed: {version!r}", version)
            pending = sum(len(one.unsaved) for one in self.owners.values() if one.incarnation == host.incarnation)
            if pending >= host.settings.commit_window:
                self.fail("window", f"{host.name} fires with {pending} results uncommitted", version)
            return
        ended_s, reason = self.ended.get((partition, epoch), (None, "never was"))
        self.counts["stale"] += 1
        if reason != "lost":
            text = f"{host.name} fires under claim {epoch} of partition {partition}, which {reason} at {ended_s}"
            self.fail("stale_fire", text, version)

    def _repeat(self, host: Any, version: Version, at: tuple[int, int], epoch: int, stream: Any) -> None:
        fires = version.fires.setdefault(at, {})
        if fires:
            self.counts["repeated"] += 1
            self._explain(fires.get(epoch) or fires[max(fires)], host, version, at, epoch)
        fires[epoch] = Fire(self.now(), host, epoch, stream)
        if len(stream.hub_stream.in_flight) > host.settings.in_flight_per_stream:
            self.fail("window", f"{host.name} has more in flight on a stream than it may", version)

    def _explain(self, before: Fire, host: Any, version: Version, at: tuple[int, int], epoch: int) -> None:
        """A repeat is charged to what has made it necessary: a stream that ended, or a claim."""
        by_stream, most = ("stream", before.stream), before.host.settings.in_flight_per_stream
        if before.epoch == epoch:
            if not before.stream.ended:
                self.fail("unexplained_dup", f"{at} is fired again under the same claim: {version!r}", version)
            self._charge(by_stream, version, most)
            return
        # An owner that does not know yet that its claim was lost repeats what the new owner has fired: the disturbance is its own loss.
        late = before.epoch > epoch
        whose, of = (host, epoch) if late else (before.host, before.epoch)
        ended_s, reason = self.ended.get((version.partition, of), (float("inf"), ""))
        charged = self.charged.get(by_stream, set())
        # Where both were lost it may have been answered on the stream, and have wanted a commit only.
        if before.stream.ended_s < ended_s and len(charged) < most and version.generation not in charged:
            self._charge(by_stream, version, most)
        else:
            # (Leases that etcd loses under an owner that trusts them: each partition that is fenced makes room for another's jobs.)
            self._charge(("owner", whose.incarnation, ended_s, reason), version, _window(whose))

    def _charge(self, disturbance: tuple[Any, ...], version: Version, most: int) -> None:
        """One disturbance costs one fire more of a job, and of as many jobs as may be in flight and uncommitted (promises G4, G5)."""
        jobs = self.charged.setdefault(disturbance, set())
        if version.generation in jobs:
            self.fail("exposure", f"one disturbance, {disturbance}, repeats it twice: {version!r}", version)
        jobs.add(version.generation)
        if len(jobs) > most and disturbance[-1] != "lost":
            self.fail(
                "exposure", f"one disturbance, {disturbance}, repeats more than {most} jobs: {version!r}", version
            )

    def taken(self, host: Any, job: Any, succeeded: bool) -> None:
        """A replica has taken a result in: from now on it must not get lost while the claim stands."""
        version = self.versions[job.generation]
        index, attempts = job.count, job.attempts
        answered = index in version.succeeded if succeeded else attempts in version.failed.get(index, ())
        if not answered:
            self.fail("ghost_result", f"no sidecar answered {index, attempts, succeeded}: {version!r}", version)
        self.log("taken", job.key, job.generation, index, attempts, succeeded, host.name)
        owner = self.owners.get(job.partition.number)
        if owner is not None and owner.incarnation == host.incarnation and owner.epoch == job.partition.epoch:
            given_up = version.max_retries is not None and attempts + 1 > version.max_retries
            owner.unsaved[job.generation] = (index + 1, 0) if succeeded or given_up else (index, attempts + 1)

    # What sidecars see

    def received(self, trigger: WatchJobsResponse) -> None:
        """A trigger has come: it carries what its job was accepted with."""
        version = self.versions[trigger.occurrence.generation]
        stored = WatchJobsResponse.FromString(version.record.trigger)
        if (trigger.name, trigger.data, trigger.metadata) != (stored.name, stored.data, stored.metadata):
            self.fail("wrong_payload", f"{trigger.data.value!r} is delivered for {version!r}", version)

    def answered(self, generation: int, index: int, attempt: int, succeeded: bool) -> None:
        """A sidecar's app has answered a trigger."""
        version = self.versions[generation]
        if succeeded:
            version.succeeded.add(index)
        else:
            version.failed.setdefault(index, set()).add(attempt)
