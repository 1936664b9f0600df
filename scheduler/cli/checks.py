"""What `scheduler doctor` thinks of what it has seen: one rule each, without I/O. A rule gives findings; a rule that has nothing to look at gives none."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from scheduler._pb.scheduler_admin.v1 import admin_pb2 as pb
from scheduler.cli.members import Seen, lateness_ms
from scheduler.cli.output import duration, size
from scheduler.config import is_loopback

# Past what etcd itself may be asked to keep, creates are refused; there must be time to do something.
_QUOTA_WARN, _QUOTA_FAIL = 0.8, 0.95
_QUOTA_DEFAULT_BYTES = 2 << 30
_ETCD_SLOW_S = 0.1
_CLOCKS_WARN_S, _CLOCKS_FAIL_S = 0.1, 1.0
_CERTIFICATE_WARN_S = 7 * 86_400.0
_FILES_MIN = 4_096
_LATE_MS, _STUCK_S = 1_000.0, 5.0
# By minor version, the patch level from which on etcd has no fault that we know to hurt; others are newer than all of them.
_ETCD_GOOD = {(3, 4): 31, (3, 5): 13}


class Result(StrEnum):
    """How one thing is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One thing that was looked at; `advice` says what to do where it is not well."""

    check: str
    result: Result
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What has been seen of a cluster."""

    address: str
    tls: bool
    now_s: float
    members: Sequence[Seen] = ()
    partitions: Sequence[pb.Partition] = ()
    # Host names that do not resolve, and why.
    unknown_hosts: dict[str, str] = field(default_factory=dict)
    # When our own certificate ends; None: we show none.
    certificate_ends_s: float | None = None

    @property
    def statuses(self) -> list[tuple[str, pb.GetStatusResponse]]:
        """Of the members that answered, by name."""
        return [(one.member.replica, one.status) for one in self.members if one.status is not None]


def _ok(check: str, found: str) -> Finding:
    return Finding(check, Result.OK, found)


def _warn(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Result.WARN, found, advice)


def _fail(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Result.FAIL, found, advice)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def members(picture: Picture) -> Iterable[Finding]:
    """Each member answers, is ready, and runs the same version."""
    for seen in picture.members:
        name, status = seen.member.replica, seen.status
        if status is None:
            yield _fail(
                "members",
                f"{name} at {seen.member.address} does not answer: {seen.problem}",
                "look at its log; its address must be reachable from here and from sidecars (--override-broadcast-host-port)",
            )
        elif status.drained:
            yield _warn(
                "members", f"{name} is drained", f"`scheduler cluster drain {name} --undrain` when it may serve again"
            )
        elif not status.ready:
            yield _fail("members", f"{name} is not ready: {status.not_ready}", "look at its log, and at etcd")
    versions = sorted({one.member.version for one in picture.members if one.member.version})
    if len(versions) > 1:
        yield _warn("members", f"several versions run: {', '.join(versions)}", "finish the upgrade")
    well = [name for name, status in picture.statuses if status.ready]
    if len(well) == len(picture.members):
        yield _ok("members", f"{len(well)} ready: {', '.join(well)}, version {', '.join(versions)}")
    if len(picture.members) == 1:
        yield _warn("members", "one replica alone", "with a second one, jobs go on firing when the first is gone")


def names(picture: Picture) -> Iterable[Finding]:
    """Every member's host is known here."""
    for host, problem in picture.unknown_hosts.items():
        yield _fail(
            "dns", f"{host!r} does not resolve: {problem}", "look at the resolver, and at what the members advertise"
        )
    if not picture.unknown_hosts and picture.members:
        yield _ok("dns", "every member's host resolves")


def partitions(picture: Picture) -> Iterable[Finding]:
    """Each partition has an owner that fires it."""
    if not picture.partitions:
        return
    unowned = [one.number for one in picture.partitions if not one.owner]
    idle = [one.number for one in picture.partitions if one.HasField("owned") and one.owned.phase != "firing"]
    if unowned:
        yield _fail(
            "partitions",
            f"{len(unowned)} of {len(picture.partitions)} have no owner, {unowned[0]} for one: their jobs do not fire",
            "wait for a lease to end (--lease-ttl) and look again; else look at the members that are not ready",
        )
    if idle:
        yield _warn("partitions", f"{len(idle)} are being loaded or handed over", "look again in a few seconds")
    if not unowned and not idle:
        yield _ok("partitions", f"all {len(picture.partitions)} are owned")


def clocks(picture: Picture) -> Iterable[Finding]:
    """The members' wall clocks agree: due times follow from the owner's."""
    told = [one for one in picture.members if one.status is not None]
    if not told:
        return
    # An uncertain clock is given the benefit: only what is surely apart counts.
    behind = max(told, key=lambda one: -one.ahead_s - one.within_s)
    before = max(told, key=lambda one: one.ahead_s - one.within_s)
    apart_s = (before.ahead_s - before.within_s) - (behind.ahead_s + behind.within_s)
    pair = f"{before.member.replica}'s clock is {apart_s:.2f} s before {behind.member.replica}'s"
    advice = "run an NTP client on each machine: jobs fire by their owner's clock"
    if apart_s > _CLOCKS_FAIL_S:
        yield _fail("clocks", pair, advice)
    elif apart_s > _CLOCKS_WARN_S:
        yield _warn("clocks", pair, advice)
    else:
        yield _ok("clocks", f"the members' agree within {_CLOCKS_WARN_S:g} s")
    here = min(told, key=lambda one: abs(one.ahead_s))
    if abs(here.ahead_s) - here.within_s > _CLOCKS_FAIL_S:
        yield _warn(
            "clocks",
            f"this machine's is {-here.ahead_s:+.2f} s from {here.member.replica}'s",
            "run an NTP client here too",
        )


def _merged(picture: Picture) -> dict[str, list[pb.EtcdEndpoint]]:
    """What the members say of each endpoint."""
    found: dict[str, list[pb.EtcdEndpoint]] = {}
    for _, status in picture.statuses:
        for one in status.etcd:
            found.setdefault(one.endpoint, []).append(one)
    return found


def etcd(picture: Picture) -> Iterable[Finding]:
    """Every endpoint answers every member, soon, without alarms, in a version without known faults."""
    endpoints = _merged(picture)
    for name, told in endpoints.items():
        answers = [one for one in told if not one.problem]
        if not answers:
            yield _fail(
                "etcd",
                f"{name} does not answer: {told[0].problem}",
                "start it, or look at --etcd-client-endpoints and its TLS",
            )
            continue
        if len(answers) < len(told):
            problem = next(one.problem for one in told if one.problem)
            yield _fail("etcd", f"{name} answers some members only: {problem}", "look at the network between them")
        yield from _etcd_version(name, answers[0].version)
        for error in sorted({error for one in answers for error in one.errors}):
            yield _fail(
                "etcd",
                f"{name}: {error}",
                "see docs/runbooks; after NOSPACE: free space, defragment, `etcdctl alarm disarm`",
            )
        slowest_s = max(one.answer_s for one in answers)
        if slowest_s > _ETCD_SLOW_S:
            yield _warn("etcd", f"{name} took {slowest_s * 1000:.0f} ms to answer", "look at its disk and CPU")
    live = [one for told in endpoints.values() for one in told if not one.problem]
    if (
        live
        and not any(one.leader for one in live)
        and all(not one.problem for told in endpoints.values() for one in told)
    ):
        yield _warn("etcd", "no endpoint leads", "give all members of etcd to --etcd-client-endpoints")
    if live:
        yield _ok("etcd", f"{_counted(len(endpoints), 'endpoint')}, revision {max(one.revision for one in live)}")


def _etcd_version(name: str, version: str) -> Iterable[Finding]:
    major, minor, patch = (*(int(part) for part in version.partition("-")[0].split(".") if part.isdigit()), 0, 0, 0)[:3]
    if (3, 5, 0) <= (major, minor, patch) <= (3, 5, 2):
        yield _fail("etcd", f"{name} runs {version}, which can lose data in a crash", "upgrade to 3.5.13 or later")
    elif (major, minor) < (3, 4):
        yield _fail("etcd", f"{name} runs {version}, which nobody maintains", "upgrade to 3.5.13 or later")
    elif patch < _ETCD_GOOD.get((major, minor), 0):
        good = f"{major}.{minor}.{_ETCD_GOOD[major, minor]}"
        yield _warn(
            "etcd",
            f"{name} runs {version}, with faults in watches and leases that {good} has not",
            f"upgrade to {good} or later",
        )


def quota(picture: Picture) -> Iterable[Finding]:
    """There is room in the database of each endpoint."""
    for name, told in _merged(picture).items():
        one = next((one for one in told if not one.problem), None)
        if one is None:
            continue
        limit, known = one.quota_bytes or _QUOTA_DEFAULT_BYTES, bool(one.quota_bytes)
        share = one.db_bytes / limit
        what = (
            f"quota of {size(limit)}"
            if known
            else f"default quota of {size(limit)} (before 3.6 etcd does not tell its own)"
        )
        found = f"{name} holds {size(one.db_bytes)}, {size(one.db_used_bytes)} of it in use: {share:.0%} of the {what}"
        advice = "defragment, delete jobs, or raise --quota-backend-bytes (at most 8 GiB)"
        if share > _QUOTA_FAIL and known:
            yield _fail("quota", found, advice)
        elif share > _QUOTA_WARN:
            yield _warn("quota", found, advice)
        else:
            yield _ok("quota", found)


def certificates(picture: Picture) -> Iterable[Finding]:
    """None ends soon, and nothing goes over the network in plaintext."""
    ends = [
        (f"{name}'s {source} certificate", end_s)
        for name, status in picture.statuses
        for source, end_s in sorted(status.process.certificates_end_unix_s.items())
    ]
    if picture.certificate_ends_s is not None:
        ends.append(("our own certificate (--tls-cert-file)", picture.certificate_ends_s))
    for what, end_s in ends:
        left_s = end_s - picture.now_s
        if left_s <= 0:
            yield _fail(
                "tls", f"{what} ended {duration(-left_s)} ago", "renew it; replicas read the files again by themselves"
            )
        elif left_s < _CERTIFICATE_WARN_S:
            yield _warn(
                "tls", f"{what} ends in {duration(left_s)}", "renew it; replicas read the files again by themselves"
            )
    open_to_all = [name for name, status in picture.statuses if not status.process.mutual_tls]
    hosts = [one.member.address.rpartition(":")[0] for one in picture.members]
    if open_to_all and not all(map(is_loopback, hosts)):
        yield _warn(
            "tls",
            f"{', '.join(open_to_all)} lets anybody on the network in",
            "set --tls-cert-file, --tls-key-file and --tls-ca-file",
        )
    elif not ends:
        yield _ok("tls", "plaintext, on this machine alone")
    elif all(end_s - picture.now_s >= _CERTIFICATE_WARN_S for _, end_s in ends):
        first_s = min(end_s for _, end_s in ends) - picture.now_s
        yield _ok("tls", f"{_counted(len(ends), 'certificate')}, the first ends in {duration(first_s)}")


def files(picture: Picture) -> Iterable[Finding]:
    """Each connection is an open file."""
    few = [
        (name, status.process.open_files_max)
        for name, status in picture.statuses
        if status.process.open_files_max < _FILES_MIN
    ]
    for name, limit in few:
        yield _warn(
            "files",
            f"{name} may open {limit} files",
            f"raise its limit to {_FILES_MIN} or more (ulimit -n, LimitNOFILE)",
        )
    if picture.statuses and not few:
        yield _ok("files", f"every replica may open {_FILES_MIN} files or more")


def firing(picture: Picture) -> Iterable[Finding]:
    """Due jobs leave, and in time."""
    if not picture.statuses:
        return
    well = True
    for name, status in picture.statuses:
        load = status.load
        if load.oldest_due_s > _STUCK_S and load.streams and not load.staged:
            well = False
            yield _fail(
                "firing",
                f"{name}: a job is due since {duration(load.oldest_due_s)}",
                "look at its log; see docs/runbooks",
            )
        if load.staged:
            well = False
            yield _warn(
                "firing",
                f"{name}: {load.staged} due jobs wait for a stream of their app, the oldest since {duration(load.oldest_due_s)}",
                "see that the apps' sidecars run and are connected to every member",
            )
    late = lateness_ms([status.totals for _, status in picture.statuses], 0.99)
    if late is not None and late > _LATE_MS:
        well = False
        yield _warn(
            "firing",
            f"99 of 100 triggers leave within {late:.0f} ms, since the start",
            "see `scheduler top` for how it is now",
        )
    if well:
        streams = sum(status.load.streams for _, status in picture.statuses)
        jobs = sum(status.load.jobs for _, status in picture.statuses)
        yield _ok("firing", f"{_counted(jobs, 'job')}, {_counted(streams, 'stream')}, nothing due waits")


RULES: tuple[Callable[[Picture], Iterable[Finding]], ...] = (
    names, members, partitions, firing, etcd, quota, clocks, certificates, files,
)  # fmt: skip


def examine(picture: Picture) -> list[Finding]:
    """All findings, in the order of the rules."""
    return [finding for rule in RULES for finding in rule(picture)]
