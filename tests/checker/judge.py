"""The verdict on a run: its history against the oracle and against etcd's own account. Never asks the product.

Verdicts: `lost` `late` `early` `dup` (an extra delivery that no disturbance explains) `over_repeat` `reordered` `stale_version` `stale_fire`
`stale_commit` `counter_regress` `two_owners` `ghost` (fires, and nothing accepted says so) `zombie_key` `leak` `api` (no order explains the
answers about a name) `hang` `vacuous` (too little happened to tell) `checker` (the two ways of matching disagree). Any of them fails the run.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.checker import linear, oracle
from tests.checker.etcdlog import EtcdLog, Stored
from tests.checker.history import NEVER, Call, Delivery, History, Record

S = 1_000_000_000
# Faults that freeze a replica.
PAUSES = frozenset({"F3", "pause"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a healthy cluster is held to, in seconds, and how much must have happened for a verdict to mean something."""

    late_s: float = 1.0
    stale_version_s: float = 1.0
    # How much later still, while a fault is about: the lease's term.
    stale_version_fault_s: float = 5.0
    # How long after its claim went a fire may still arrive: the wire's and the watchers' own slowness.
    stale_fire_s: float = 0.5
    # By how much replicas' clocks may differ from the watchers'.
    skew_s: float = 0.0
    finished_record_s: float = 10.0
    targets_min: int = 1
    faults_min: int = 0
    ownership_changes_min: int = 0


@dataclass(slots=True)
class Report:
    """Verdicts with their reasons, and the run's figures."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    targets: int = 0
    deliveries: int = 0
    # First deliveries as (wall, partition, lateness, namespace), extra deliveries, and new claims after the first as (wall, partition).
    lateness: list[tuple[int, int, int, str]] = field(default_factory=list)
    extras: list[int] = field(default_factory=list)
    changes: list[tuple[int, int]] = field(default_factory=list)
    # Triggers of a paused owner that left as it woke up, after its claim had gone (promise G5d).
    remainder: int = 0
    fault_starts: list[int] = field(default_factory=list)

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(kind for kind, _ in self.problems)

    def figures(self, begin_wall: int = 0, end_wall: int = NEVER) -> Record:
        """Of a part of the run: greatest lateness L (also of partitions that stayed where they were), extra deliveries D, new owners, and
        how long after the first fault the last occurrence came that was more than half a second late."""
        moved = {partition for wall, partition in self.changes if begin_wall <= wall < end_wall}
        part = [one for one in self.lateness if begin_wall <= one[0] < end_wall]
        start = min((wall for wall in self.fault_starts if begin_wall <= wall < end_wall), default=end_wall)
        behind = [wall - start for wall, _, late, _ in part if late > S // 2 and wall > start]
        return {
            "L": _seconds(late for _, _, late, _ in part),
            "L_unmoved": _seconds(late for _, partition, late, _ in part if partition not in moved),
            "L_of": {
                ns: _seconds(late for _, _, late, of in part if of == ns) for ns in sorted({one[3] for one in part})
            },
            "D": sum(begin_wall <= wall < end_wall for wall in self.extras),
            "ownership_changes": sum(begin_wall <= wall < end_wall for wall, _ in self.changes),
            "recovery_s": round(max(behind, default=0) / S, 3),
            "occurrences": len(part),
        }

    def as_json(self) -> Record:
        return {
            "verdict": "fail" if self.problems else "pass",
            "verdicts": dict(self.verdicts),
            "worst": [f"{kind}: {detail}" for kind, detail in self.problems[:10]],
            "targets": self.targets,
            "deliveries": self.deliveries,
            **self.figures(),
        }


def judge(records: list[Record], bounds: Bounds | None = None) -> Report:
    """The whole judgement."""
    judgement = _Judgement(History.of(records), bounds or Bounds())
    judgement.run()
    return judgement.report


class _Judgement:
    def __init__(self, history: History, bounds: Bounds) -> None:
        self.history = history
        self.bounds = bounds
        self.etcd = EtcdLog.of(history.etcd)
        self.report = Report()
        self.calls = list(history.calls.values())
        self.schedules = {call.begin["ver"]: call for call in self.calls if call.begin["op"] == "schedule"}
        self.deletes: dict[tuple[str, str, str], list[Call]] = {}
        for call in self.calls:
            if call.begin["op"] == "delete":
                self.deletes.setdefault(call.name, []).append(call)
        self.versions = {stored.ver for stored in self.etcd.stored.values()}
        # When records of a name went without being overwritten.
        self.deletions: dict[tuple[str, str, str], list[int]] = {}
        for stored in self.etcd.stored.values():
            if stored.end_rev != NEVER and stored.overwritten_by is None and stored.ver in self.schedules:
                self.deletions.setdefault(self.schedules[stored.ver].name, []).append(stored.end_t)
        self.by_gen: dict[int, list[Delivery]] = {}
        ends = [history.final["t"]] if history.final else [delivery.t for delivery in history.deliveries]
        self.end_t = max(ends, default=0)
        # One machine: the two clocks differ by a constant, except where a scenario steps the wall clock of replicas only.
        clocks = history.final or (history.deliveries[-1].recv if history.deliveries else {"t": 0, "wall": 0})
        self.wall_offset = clocks["wall"] - clocks["t"]

    def found(self, kind: str, detail: str) -> None:
        self.report.problems.append((kind, detail))

    def run(self) -> None:
        report = self.report
        report.problems.extend(self.etcd.problems)
        report.deliveries = len(self.history.deliveries)
        report.fault_starts = [fault.start_wall for fault in self.history.faults]
        for partition, tenures in self.etcd.claims.items():
            report.changes += [(claim.begin_t + self.wall_offset, partition) for claim in tenures[1:]]
        for delivery in self.history.deliveries:
            if self._belongs(delivery):
                self.by_gen.setdefault(delivery.recv["gen"], []).append(delivery)
        for stored in self.etcd.stored.values():
            call = self.schedules.get(stored.ver)
            if call is None:
                self.found("ghost", f"{stored.key} holds version {stored.ver}, which nobody scheduled")
            else:
                self._version(stored, call)
        self._accepted_is_stored()
        self._answers()
        self._left_over()
        self._enough()

    # Single deliveries

    def _belongs(self, delivery: Delivery) -> bool:
        """Whether the delivery is one of an accepted version, by an owner of its partition, at its time."""
        recv = delivery.recv
        what = f"{recv['name']} {recv['ver']} #{recv['index']}"
        stored = self.etcd.stored.get(recv["gen"])
        if stored is None or stored.ver != recv["ver"]:
            self.found("ghost", f"{what}: generation {recv['gen']:x} was never stored with this version")
            return False
        claim = self.etcd.claim_of(stored.partition, recv["epoch"])
        if claim is None or claim.replica != recv["replica"]:
            self.found("stale_fire", f"{what}: {recv['replica']} never owned {stored.partition} as {recv['epoch']}")
        elif delivery.t > claim.end_t + self.bounds.stale_fire_s * S:
            late_s = (delivery.t - claim.end_t) / S
            if self._just_woken(recv):
                self.report.remainder += 1  # what a process had begun to write when it was frozen leaves as it wakes up
            else:
                self.found("stale_fire", f"{what}: {recv['replica']} fired {late_s:.2f} s after its claim went")
        if recv["wall"] < recv["sched"] - self.bounds.skew_s * S:
            self.found("early", f"{what}: {(recv['sched'] - recv['wall']) / S:.3f} s before its time")
        elif delivery.t > self._must_not_after(stored) + self._stale_bound(delivery) and not self._just_woken(recv):
            self.found("stale_version", f"{what}: fired after its deletion or overwrite was accepted")
        return True

    def _just_woken(self, recv: Record) -> bool:
        """Whether the replica's pause ended within the last half second."""
        return any(
            fault.name in PAUSES and recv["replica"] in fault.target and 0 <= recv["wall"] - fault.stop_wall <= S // 2
            for fault in self.history.faults
        )

    def _stale_bound(self, delivery: Delivery) -> float:
        excused = max(
            (
                fault.excused_until_wall - delivery.recv["wall"]
                for fault in self.history.faults
                if fault.start_wall <= delivery.recv["wall"]
            ),
            default=0,
        )
        bounds = self.bounds
        return (bounds.stale_version_s + bounds.stale_version_fault_s * (excused > 0)) * S

    def _must_not_after(self, stored: Stored) -> int:
        """The instant at which the end of a version was accepted."""
        if stored.end_rev == NEVER:
            return NEVER
        if stored.overwritten_by is not None:
            call = self.schedules.get(stored.overwritten_by)
            return call.returned_t if call is not None else NEVER
        return max((call.returned_t for call in self._deletes(stored)), default=NEVER)

    def _deletes(self, stored: Stored) -> list[Call]:
        """The deletes that may have ended a version."""
        call = self.schedules[stored.ver]
        return [
            other
            for other in self.deletes.get(call.name, [])
            if other.begin["t"] <= stored.end_t and other.returned_t >= stored.begin_t
        ]

    # Whole versions

    def _version(self, stored: Stored, call: Call) -> None:
        spec, bounds = call.begin["spec"], self.bounds
        skew = int(bounds.skew_s * S)
        accepted_wall = min(call.returned_t, stored.begin_t + S) + self.wall_offset
        begin, end = call.begin["wall"] - skew, accepted_wall + skew
        if stored.first is None:
            return
        low, high = oracle.first_between(spec, begin, end)
        expiry = oracle.expires_between(spec, stored.first, begin, end)
        wrong = not low <= stored.first <= high
        if expiry is not None:
            wrong = wrong or stored.expires is None or not expiry[0] <= stored.expires <= expiry[1]
        if wrong:
            self.found("ghost", f"{stored.key}: planned from {stored.first}, {spec} allows {low} to {high}")
            return
        until = self.end_t + self.wall_offset + int((bounds.skew_s + 10) * S)
        targets = list(oracle.occurrences(spec, stored.first, stored.expires, until))
        deliveries = self.by_gen.get(stored.gen, [])
        by_sched: dict[int, list[Delivery]] = {}
        for delivery in deliveries:
            by_sched.setdefault(delivery.recv["sched"], []).append(delivery)
        self._only_targets(stored, spec, targets, by_sched)
        self._extras(stored, deliveries)
        self._order_and_lateness(stored, spec, targets, by_sched)

    def _only_targets(
        self, stored: Stored, spec: Record, targets: list[int], by_sched: dict[int, list[Delivery]]
    ) -> None:
        for sched, deliveries in by_sched.items():
            index = bisect_left(targets, sched)
            if index < len(targets) and targets[index] == sched:
                wrong = [one for one in deliveries if one.recv["index"] != index]
                if wrong:
                    self.found("ghost", f"{stored.key} #{index}: delivered under number {wrong[0].recv['index']}")
            elif "repeats" in spec and len(targets) >= spec["repeats"] and sched > targets[-1]:
                self.found("over_repeat", f"{stored.key}: fired for {sched} after all {spec['repeats']} occurrences")
            else:
                self.found("ghost", f"{stored.key}: fired for {sched}, which {spec} does not mean")

    def _extras(self, stored: Stored, deliveries: list[Delivery]) -> None:
        """Each delivery of an attempt beyond the first needs a disturbance of its own between the first and the commit."""
        attempts: dict[tuple[int, int, int], list[Delivery]] = {}
        for delivery in deliveries:
            attempts.setdefault(delivery.identity, []).append(delivery)
        # One occurrence of a job is in doubt at a time: a disturbance costs one delivery more of it.
        charged: set[tuple[str, Any]] = set()
        for group in attempts.values():
            for first, extra in zip(group, group[1:], strict=False):
                self.report.extras.append(extra.recv["wall"])
                cause = self._cause(stored, first, extra)
                if cause is None or cause in charged:
                    recv = extra.recv
                    self.found(
                        "dup", f"{recv['name']} {recv['ver']} #{recv['index']} by {recv['replica']} at {extra.t}"
                    )
                else:
                    charged.add(cause)

    def _cause(self, stored: Stored, first: Delivery, extra: Delivery) -> tuple[str, Any] | None:
        if first.recv["epoch"] != extra.recv["epoch"]:
            committed_rev, _ = self.etcd.committed(stored.gen, first.recv["index"], first.recv["attempt"])
            epochs = sorted((first.recv["epoch"], extra.recv["epoch"]))
            claim = self.etcd.claim_of(stored.partition, epochs[0])
            if claim is None or committed_rev < epochs[1]:
                return None  # who came second had to know
            # A hand-over waits for what is in flight: only an app that does not answer is asked again by the next owner.
            if claim.lease_ended or min(first.ack_t, extra.ack_t) > claim.end_t - S // 10:
                return "owner", epochs[1]
            return None
        lost_t = self.history.lost_streams.get(first.recv["stream"], NEVER)
        if lost_t <= extra.t + S // 5:
            return "stream", first.recv["stream"]
        return None

    def _order_and_lateness(
        self, stored: Stored, spec: Record, targets: list[int], by_sched: dict[int, list[Delivery]]
    ) -> None:
        cut_off = self.end_t - int(self.bounds.late_s * S)
        must_until = min(cut_off, self._ended_by_request_t(stored)) + self.wall_offset
        before: Delivery | None = None
        settled_wall = 0
        points: list[int] = []
        intervals: list[tuple[int, int]] = []
        holes = 0
        for index, sched in enumerate(targets):
            group = by_sched.get(sched, [])
            over = [one for one in group if one.succeeded or self._given_up(spec, one)]
            first = group[0] if group else None
            due = max(sched, settled_wall, stored.begin_t + self.wall_offset)
            limit = self._limit(due)
            settled = bool(over) and self.etcd.committed(stored.gen, index, 1 << 40)[0] != NEVER
            if limit < must_until:
                self.report.targets += 1
                if not spec.get("unanswered"):
                    intervals.append((sched, limit))
                if not settled and not (spec.get("unanswered") and (index or first is not None)):
                    holes += 1
                    state = "never fired" if first is None else "never acknowledged" if not over else "never committed"
                    self.found("lost", f"{stored.key} {stored.ver} #{index} due {sched}: {state}")
            if first is None:
                before = None
                continue
            if before is not None and first.t < before.ack_t:
                self.found("reordered", f"{stored.key} {stored.ver} #{index} before #{index - 1} was settled")
            late = first.recv["wall"] - due
            if sched <= must_until:
                self.report.lateness.append((first.recv["wall"], stored.partition, late, first.recv["ns"]))
            holes += any(one.recv["wall"] < sched for one in group)
            if first.recv["wall"] > limit:
                holes += 1
                self.found("late", f"{stored.key} {stored.ver} #{index}: {late / S:.3f} s, no fault excuses it")
            points.append(first.recv["wall"])
            answered = [one for one in over if one.ack is not None]
            before = min(answered, key=lambda one: one.ack_t) if answered else None
            if before is not None:
                settled_wall = before.ack_t + self.wall_offset
            elif group:
                settled_wall = self.end_t + self.wall_offset  # the next one waits for this one
        if not holes and not _covers(points, intervals):
            self.found("checker", f"{stored.key} {stored.ver}: matching by time misses what matching by identity found")

    def _given_up(self, spec: Record, delivery: Delivery) -> bool:
        return delivery.ack is not None and delivery.recv["attempt"] >= spec.get("max_retries", 3)

    def _ended_by_request_t(self, stored: Stored) -> int:
        """Until when a version must fire: the earliest instant at which a client's request may have ended it."""
        if stored.end_rev == NEVER:
            return NEVER
        if stored.overwritten_by is not None:
            call = self.schedules.get(stored.overwritten_by)
            return call.begin["t"] if call is not None else NEVER
        deletes = [call.begin["t"] for call in self._deletes(stored)]
        if deletes:
            return min(deletes)
        if self.etcd.done_t(stored.gen) > stored.end_t:
            self.found(
                "lost", f"{stored.key} {stored.ver}: its record went, and neither a client nor its own end says why"
            )
            return stored.end_t
        return NEVER

    def _limit(self, due_wall: int) -> int:
        """Until when an occurrence must have been delivered."""
        limit = due_wall + int(self.bounds.late_s * S)
        changed = True
        while changed:
            changed = False
            for fault in self.history.faults:
                if (
                    fault.start_wall <= limit
                    and due_wall < fault.excused_until_wall
                    and limit < fault.excused_until_wall
                ):
                    limit, changed = fault.excused_until_wall, True
        return limit

    # Calls, and what is left

    def _accepted_is_stored(self) -> None:
        for ver, call in self.schedules.items():
            if call.outcome == "ok" and ver not in self.versions:
                self.found("lost", f"{call.name} {ver}: accepted, and etcd never held it")

    def _answers(self) -> None:
        for call in self.calls:
            end_t = self.end_t if call.end is None else call.end["t"]
            took_s = (end_t - call.begin["t"]) / S
            if took_s > call.begin["deadline_s"] + 1:
                self.found(
                    "hang", f"{call.begin['op']} {call.name}: {took_s:.1f} s, asked for {call.begin['deadline_s']} s"
                )
        ends = {stored.ver: self._own_end_t(stored) for stored in self.etcd.stored.values()}
        for name, calls in linear.names_of([call for call in self.calls if not self._had_no_effect(call)]).items():
            if not linear.explains(calls, name[2], lambda ver: ends.get(ver, NEVER)):
                answers = [(call.begin["op"], call.outcome, call.begin.get("ver")) for call in calls]
                self.found("api", f"{name}: no order explains {answers[:12]}")

    def _had_no_effect(self, call: Call) -> bool:
        """A call of unknown fate that etcd's log shows no trace of: nothing to search for."""
        if call.outcome != "info":
            return False
        if call.begin["op"] == "schedule":
            return call.begin["ver"] not in self.versions
        if call.begin["op"] == "delete":
            ends = self.deletions.get(call.name, [])
            return not ends or max(ends) < call.begin["t"]
        return True

    def _own_end_t(self, stored: Stored) -> int:
        """From when on a version may be gone by itself."""
        spec = self.schedules[stored.ver].begin["spec"] if stored.ver in self.schedules else {"schedule": "@every 1s"}
        if not oracle.is_finite(spec):
            return NEVER
        if stored.first is None:
            return stored.begin_t
        fires = self.by_gen.get(stored.gen, [])
        last = max((one.recv["sched"] for one in fires), default=0)
        return min((one.t for one in fires if one.recv["sched"] == last), default=NEVER)

    def _left_over(self) -> None:
        final = self.history.final
        if final is None:
            return
        members = self.etcd.members
        for partition, tenures in self.etcd.claims.items():
            if tenures[-1].end_rev == NEVER and tenures[-1].replica not in members:
                self.found("zombie_key", f"claim of {partition} stands for {tenures[-1].replica}, which is no member")
        for stored in self.etcd.standing_jobs():
            done_t = self.etcd.done_t(stored.gen)
            if done_t != NEVER and final["t"] - done_t > self.bounds.finished_record_s * S:
                self.found("zombie_key", f"{stored.key} {stored.ver} finished and is still stored")
        if final["leases"] > len(members):
            self.found("leak", f"{final['leases']} leases for {len(members)} members")

    def _enough(self) -> None:
        report, bounds = self.report, self.bounds
        for what, count, least in (
            ("targets", report.targets, bounds.targets_min),
            ("faults", len(self.history.faults), bounds.faults_min),
            ("ownership changes", len(report.changes), bounds.ownership_changes_min),
        ):
            if count < least:
                self.found("vacuous", f"{count} {what}, and the scenario needs {least}")


def _seconds(lateness: Iterable[int]) -> float:
    return round(max(lateness, default=0) / S, 3)


def _covers(points: list[int], intervals: list[tuple[int, int]]) -> bool:
    """Whether each interval gets a point of its own: earliest end first, which is optimal for points and intervals."""
    points = sorted(points)
    used = [False] * len(points)
    for low, high in sorted(intervals, key=lambda interval: interval[1]):
        at = bisect_left(points, low)
        while at < len(points) and used[at]:
            at += 1
        if at == len(points) or points[at] > high:
            return False
        used[at] = True
    return True
