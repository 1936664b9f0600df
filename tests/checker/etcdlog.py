"""etcd's own account of a run: who owned which partition, which version of a job was stored when, and what progress was written.

Log records (made by tests/faults/etcdwatch.py, which decodes what etcd sends): `key` is relative to the cluster's root, `put` is by kind
    jobs/<partition>/<key>      {"gen","first","expires","ver"}
    claims/<partition>          {"replica"}
    members/<replica>           {"replica","state"}
    ledger/<p>/journal/<seq>    {"entries":[[gen, count, attempts, done],..]}      (checkpoint alike)
"""

from dataclasses import dataclass, field
from typing import Any

from tests.checker.history import NEVER, Record


@dataclass(slots=True)
class Claim:
    """One tenure of a partition."""

    partition: int
    replica: str
    epoch: int
    begin_t: int
    end_t: int = NEVER
    end_rev: int = NEVER
    # It ended with its lease, not by hand-over.
    lease_ended: bool = False


@dataclass(slots=True)
class Stored:
    """One version of a job, as long as its record stood."""

    key: str
    gen: int
    ver: str
    first: int | None
    expires: int | None
    rev: int
    begin_t: int
    end_t: int = NEVER
    end_rev: int = NEVER
    overwritten_by: str | None = None

    @property
    def partition(self) -> int:
        return int(self.key.split("/")[1])


@dataclass(slots=True)
class EtcdLog:
    """What the watcher saw, in the order of revisions."""

    claims: dict[int, list[Claim]] = field(default_factory=dict)
    stored: dict[int, Stored] = field(default_factory=dict)
    # By generation: (revision, t, count, attempts, done), in order of writing.
    progress: dict[int, list[tuple[int, int, int, int, bool]]] = field(default_factory=dict)
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    _journal: dict[str, Any] = field(default_factory=dict)
    _sequence: dict[int, int] = field(default_factory=dict)
    _current: dict[str, Stored] = field(default_factory=dict)

    @classmethod
    def of(cls, records: list[Record]) -> "EtcdLog":
        log = cls()
        members_gone: set[int] = set()
        for record in records:
            if record["key"].startswith("members/") and "del" in record:
                members_gone.add(record["rev"])
        for record in records:
            kind = record["key"].partition("/")[0]
            if kind == "claims":
                log._claim(record, members_gone)
            elif kind == "jobs" and record["key"].count("/") > 1:  # others are marks
                log._job(record)
            elif kind == "ledger":
                log._ledger(record)
            elif kind == "members":
                name = record["key"].removeprefix("members/")
                if "del" in record:
                    log.members.pop(name, None)
                else:
                    log.members[name] = record["put"]
        return log

    def claim_of(self, partition: int, epoch: int) -> Claim | None:
        return next((claim for claim in self.claims.get(partition, []) if claim.epoch == epoch), None)

    def committed(self, gen: int, index: int, attempt: int) -> tuple[int, int]:
        """When it was first on disk that this attempt of an occurrence is over: (revision, t)."""
        for rev, t, count, attempts, _ in self.progress.get(gen, []):
            if count > index or (count == index and attempts > attempt):
                return rev, t
        return NEVER, NEVER

    def done_t(self, gen: int) -> int:
        return next((t for _, t, _, _, done in self.progress.get(gen, []) if done), NEVER)

    def standing_jobs(self) -> list[Stored]:
        return list(self._current.values())

    def _claim(self, record: Record, members_gone: set[int]) -> None:
        partition = int(record["key"].partition("/")[2])
        tenures = self.claims.setdefault(partition, [])
        if "del" in record:
            claim = tenures[-1]
            claim.end_t, claim.end_rev = record["t"], record["rev"]
            claim.lease_ended = record["rev"] in members_gone
            return
        if (tenures and tenures[-1].end_rev == NEVER) or record["create"] != record["mod"]:
            self.problems.append(("two_owners", f"{record['key']} written while it stood, at revision {record['rev']}"))
        tenures.append(Claim(partition, record["put"]["replica"], record["create"], record["t"]))

    def _job(self, record: Record) -> None:
        key = record["key"]
        old = self._current.pop(key, None)
        if old is not None:
            old.end_t, old.end_rev = record["t"], record["rev"]
        if "put" in record:
            put = record["put"]
            if old is not None:
                old.overwritten_by = put["ver"]
            new = Stored(key, put["gen"], put["ver"], put["first"], put["expires"], record["rev"], record["t"])
            self._current[key] = self.stored[put["gen"]] = new

    def _ledger(self, record: Record) -> None:
        key = record["key"]
        _, number, kind, rest = key.split("/", 3)
        partition = int(number)
        if "del" in record:
            return
        entries = record["put"]["entries"]
        known = self._journal.get(key)
        if known == entries:
            return  # the same batch once more: its first answer was lost, and it may land late
        tenures = self.claims.get(partition, [])
        where = f"{key} at revision {record['rev']}"
        if not tenures or tenures[-1].end_rev < record["rev"]:
            self.problems.append(("stale_commit", f"{where}: nobody owned the partition"))
        elif known is not None:
            self.problems.append(("stale_commit", f"{where}: another batch under a number that is taken"))
        elif kind == "journal":
            sequence = int(rest, 16)
            if sequence <= self._sequence.get(partition, -1):
                self.problems.append(("stale_commit", f"{where}: older than batch {self._sequence[partition]:x}"))
            self._sequence[partition] = max(sequence, self._sequence.get(partition, -1))
        self._journal[key] = entries
        for gen, count, attempts, done in entries:
            past = self.progress.setdefault(gen, [])
            if past and (bool(done), count, attempts) < (past[-1][4], past[-1][2], past[-1][3]):
                detail = f"{where}: generation {gen:x} went from {past[-1][2:]} to {(count, attempts, done)}"
                self.problems.append(("counter_regress", detail))
                continue
            past.append((record["rev"], record["t"], count, attempts, bool(done)))
