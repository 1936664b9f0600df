"""What is done to etcd (reliability: F12, F13, F14, F18, F19)."""

import os
import time
from signal import SIGCONT, SIGSTOP

from tests.faults.cluster import EtcdMember, attach_strace
from tests.faults.etcd_admin import compact, defragment, disarm_no_space
from tests.faults.machine import etcd_version, require
from tests.faults.run import TAKE_OVER_S, TTL_S, Run
from tests.faults.scenarios import Scenario, victim_of, wait_taken_over
from tests.support.processes import wait_until

# How long a new leader may take to be elected and to answer again.
ELECTION_S = 4.0


def version_numbers() -> tuple[int, ...]:
    return tuple(int(number) for number in etcd_version().split("."))


def on_which_etcd() -> str:
    """For the name of a row: which etcd it was, if one was named."""
    return f" on etcd {etcd_version()}" if os.environ.get("SCHEDULER_FAULTS_ETCD") else ""


def leader_of(run: Run) -> EtcdMember:
    wait_until(lambda: run.cluster.leader() is not None, timeout_s=10, what="etcd has a leader")
    leader = run.cluster.leader()
    assert leader is not None
    return leader


def leader_crash(run: Run, short: bool) -> None:
    leader = leader_of(run)
    with run.phase("F12 leader", L=ELECTION_S + 1, ownership_changes=0):
        with run.fault("F12", leader.name, ELECTION_S):
            leader.kill()
        run.tail(4)
        leader.start()
        wait_until(lambda: leader.status() is not None, timeout_s=20, what="the member is back")
    if short:
        return
    leader, victim = leader_of(run), victim_of(run)
    bound = 2 * TTL_S + ELECTION_S
    with run.phase("F12 leader and owner", L=bound, changes_min=30):
        with run.fault("F12", f"{leader.name} and {victim.name}", bound):
            leader.kill()
            victim.kill()
        wait_taken_over(run, victim)
        leader.start()
        victim.start()
        wait_until(lambda: leader.status() is not None, timeout_s=20, what="the member is back")


def leader_pause(run: Run, _short: bool) -> None:
    """Leases outlive the pause. When the old leader wakes up, etcd before 3.5.23 may revoke what it takes for expired: that is one
    take-over more, and in time like any other. A newer one revokes nothing."""
    leader, claims = leader_of(run), run.claims()
    newer = version_numbers() >= (3, 5, 23)
    limits = {"ownership_changes": 0} if newer else {}
    with run.phase("F13" + on_which_etcd(), L=ELECTION_S + 1, **limits) as notes, run.fault("F13", leader.name, 1.0):
        assert leader.process is not None
        leader.process.send_signal(SIGSTOP)
        time.sleep(9)  # the pause is the fault
        now = run.claims()
        lost = [key for key, epoch in claims.items() if now.get(key) != epoch]
        leader.process.send_signal(SIGCONT)
        notes["claims lost while it was paused"] = len(lost)
        assert not lost, f"{len(lost)} of {len(claims)} claims were lost while the leader was paused"


def leader_disk_stall(run: Run, _short: bool) -> None:
    require("strace")
    leader = leader_of(run)
    kept = version_numbers() >= (3, 5)
    limits = {"ownership_changes": 0} if kept else {}
    with run.phase("F14" + on_which_etcd(), L=9 + TAKE_OVER_S, **limits) as notes:
        notes["etcd"] = etcd_version()
        stall = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=9000000:when=1")
        with run.fault("F14", leader.name, TAKE_OVER_S):
            tracer = attach_strace(leader.pid, *stall)
            try:
                time.sleep(10)  # the stall is the fault
            finally:
                tracer.terminate()
                tracer.wait(20)


def majority_loss(run: Run, short: bool) -> None:
    for length in (5.0,) if short else (5.0, 60.0):
        with run.phase(f"F19 {length:g} s", L=length + 5.0) as notes:
            lost = run.cluster.members[:2]
            with run.fault("F19", f"two of three, {length:g} s", 5.0):
                for member in lost:
                    assert member.process is not None
                    member.process.send_signal(SIGSTOP)
                time.sleep(length)  # the outage is the fault
                if length > TTL_S:
                    notes["ready meanwhile"] = [one.answer("/readyz")[0] for one in run.cluster.replicas]
                    notes["live meanwhile"] = [one.answer("/livez")[0] for one in run.cluster.replicas]
                for member in lost:
                    member.process.send_signal(SIGCONT)  # type: ignore[union-attr]
            assert all(replica.alive for replica in run.cluster.replicas), "nothing needs a restart"
            if length > TTL_S:
                assert notes["ready meanwhile"] == [503] * 3, notes
                assert notes["live meanwhile"] == [200] * 3, notes
            run.tail(4)


def no_space(run: Run, short: bool) -> None:
    app, padding = ("padding", "app-0"), 64_000
    cluster = run.cluster
    with run.phase("F18", ownership_changes=200) as notes:
        names: list[str] = []
        with run.fault("F18", "etcd is full", 5.0):
            code = "OK"
            while code == "OK":
                names.append(f"big-{len(names)}")
                code = run.clients.schedule(app, names[-1], {"due_time": "3h"}, padding=padding)
                assert len(names) < 3_000, "etcd never fills up"
            assert code == "RESOURCE_EXHAUSTED", code
            wait_until(
                lambda: all(replica.answer("/readyz")[0] == 503 for replica in cluster.replicas),
                timeout_s=20,
                what="every replica says that it is not ready",
            )
            notes["why not ready"] = cluster.replicas[0].answer("/readyz")[1].strip()
            assert all(replica.answer("/livez")[0] == 200 for replica in cluster.replicas), (
                "that etcd is full is no reason to restart"
            )
            sent = sum(replica.metric("scheduler_triggers_sent_total") for replica in cluster.replicas)
            waiting = [int(replica.metric("scheduler_uncommitted_results")) for replica in cluster.replicas]
            notes["uncommitted"] = waiting
            run.tail(2 if short else 6)
            more = sum(replica.metric("scheduler_triggers_sent_total") for replica in cluster.replicas) - sent
            notes["sent while full"] = int(more)
            restarted = cluster.replicas[2]
            restarted.kill()
            restarted.start()
            wait_until(lambda: restarted.answer("/livez")[0] == 200, timeout_s=15, what="it is back")
            for name in names:
                # Whoever has just been restarted may not be found yet by the caller's channel.
                wait_until(lambda name=name: run.clients.delete(app, name) == "OK", timeout_s=10, what="deletes work")
            assert restarted.alive, "without a lease it waits"
            ids = [status.header.member_id for member in cluster.members if (status := member.status())]
            assert cluster.watch is not None
            wait_until(
                lambda: bool(cluster.watch and cluster.watch.revision), timeout_s=5, what="the watcher has caught up"
            )
            compact(cluster.members[0].target, cluster.watch.revision - 1)
            for member in cluster.members:
                defragment(member.target)
            disarm_no_space(cluster.members[0].target, ids)
            began = time.monotonic()
        wait_until(lambda: cluster.replicas[0].answer("/readyz")[0] == 200, timeout_s=10, what="it resumes by itself")
        notes["resumed after s"] = round(time.monotonic() - began, 1)
        assert all(replica.alive for replica in cluster.replicas), "nothing needs a restart"
        run.tail(3)


ETCD_SCENARIOS = {
    "F12": Scenario("the etcd leader crashes; and together with an owner", leader_crash),
    "F13": Scenario("the etcd leader is paused for 9 s", leader_pause),
    "F14": Scenario("the etcd leader's disk stalls for 9 s", leader_disk_stall),
    "F18": Scenario("etcd is full", no_space, lambda: {"etcd_flags": ("--quota-backend-bytes=16777216",)}),
    "F19": Scenario("etcd loses its majority for 5 s and for 60 s", majority_loss),
}
