"""What is done to replicas and their clients (reliability: F1, F2, F3, F22, F25, F31, F34). Each scenario disturbs a running cluster and lets it heal."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from typing import Any

from tests.checker.history import Record
from tests.faults.cluster import FaultReplica
from tests.faults.etcd_admin import compact
from tests.faults.run import TAKE_OVER_S, Run
from tests.faults.workload import APPS
from tests.support.admin import Operator
from tests.support.processes import wait_until

# A cut or a pause of this length is survived with the lease kept; one of that length is not.
SHORT_S, LONG_S = 2.5, 10.0
# What a watcher's own process and a busy machine may add to what is measured at its end.
MEASURED_S = 0.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault: `play` disturbs a running cluster of the kind that `site` asks for."""

    text: str
    play: Callable[[Run, bool], None]
    site: Callable[[], dict[str, Any]] = dict


def victim_of(run: Run) -> FaultReplica:
    """The replica that owns most."""
    loads = run.cluster.loads()
    return max(run.cluster.replicas, key=lambda replica: loads.get(replica.name, 0))


def wait_taken_over(run: Run, victim: FaultReplica) -> None:
    def taken() -> bool:
        owners = run.cluster.owners()
        return len(owners) == 128 and victim.name not in owners.values()

    wait_until(taken, timeout_s=15, what=f"the partitions of {victim.name} are taken over")


def owner_crash(run: Run, _short: bool) -> None:
    victim = victim_of(run)
    with run.phase("F1", L=TAKE_OVER_S, L_unmoved=MEASURED_S, changes_min=30):
        with run.fault("F1", victim.name, TAKE_OVER_S):
            victim.kill()
        wait_taken_over(run, victim)
        run.tail(2)
        victim.start()
    with run.phase("F1 returns at once", L=4.0, L_unmoved=MEASURED_S) as notes:
        began = time.monotonic()
        with run.fault("F1", f"{victim.name} returns at once", 4.0):
            victim.kill()
            victim.start()
        wait_until(lambda: victim.answer("/healthz")[0] == 200, timeout_s=15, what="it is back")
        notes["ready again after s"] = round(time.monotonic() - began, 1)


def rolling_restart(run: Run, short: bool) -> None:
    with run.phase("F2", L=MEASURED_S, D=0, changes_min=60) as notes:
        slowest = 0.0
        for replica in run.cluster.replicas[: 2 if short else 3]:
            began = time.monotonic()
            with run.fault("F2", replica.name, MEASURED_S):
                code = replica.terminate(10)
            assert code == 0, f"{replica.name} ended with {code}"
            slowest = max(slowest, time.monotonic() - began)
            run.cluster.settle()
            replica.start()
            run.cluster.settle()
        notes["slowest stop s"] = round(slowest, 1)
    # An operator's drain is a hand-over too, of a member that stays, and so is its way back.
    victim = victim_of(run)
    with (
        run.phase("F2 drain", L=MEASURED_S, D=0, changes_min=60),
        contextlib.closing(Operator(victim.address)) as operator,
    ):
        with run.fault("F2", f"{victim.name} drained", MEASURED_S):
            operator.call("DrainMember", replica=victim.name)
            wait_taken_over(run, victim)
        run.tail(2)
        with run.fault("F2", f"{victim.name} undrained", MEASURED_S):
            operator.call("DrainMember", replica=victim.name, undrain=True)
            run.cluster.settle()


def zombie_owner(run: Run, _short: bool) -> None:
    victim = victim_of(run)
    with (
        run.phase("F3 short", L=SHORT_S + 1, L_unmoved=SHORT_S + 1, ownership_changes=0),
        run.fault("F3", f"{victim.name} short", 1.0),
    ):
        pause(victim, SHORT_S)
    with run.phase("F3 long", L=TAKE_OVER_S, L_unmoved=MEASURED_S, changes_min=30):
        with run.fault("F3", f"{victim.name} long", TAKE_OVER_S - LONG_S):
            pause(victim, LONG_S)
        wait_until(lambda: victim.name in run.cluster.loads(), timeout_s=5, what="it has joined again within 5 s")


def pause(victim: FaultReplica, seconds: float) -> None:
    victim.signal(SIGSTOP)
    try:
        time.sleep(seconds)  # the pause is the fault
    finally:
        victim.signal(SIGCONT)


def watch_compaction(run: Run, short: bool) -> None:
    network, victim = run.cluster.network, victim_of(run)
    assert network is not None and run.cluster.watch is not None
    ports = [member.port for member in run.cluster.members]
    for length in (SHORT_S,) if short else (SHORT_S, LONG_S):
        bound = 1.0 if length == SHORT_S else TAKE_OVER_S
        with run.phase(f"F22 cut {length:g} s", L=TAKE_OVER_S) as notes:
            before = victim.metric("scheduler_partition_resyncs_total")
            with run.fault("F22", f"{victim.name} {length:g} s", bound):
                network.cut(victim.name, ports, "both")
                until = time.monotonic() + length
                while time.monotonic() < until:
                    compact(run.cluster.members[0].target, run.cluster.watch.revision - 1)
                    time.sleep(0.1)  # the pace of compaction is part of the fault
                network.heal(victim.name)
            run.tail(3)
            notes["resyncs"] = int(victim.metric("scheduler_partition_resyncs_total") - before)
            assert length == SHORT_S or notes["resyncs"], "no watch was overtaken by compaction: the fault missed"


def etcd_cut(run: Run, short: bool) -> None:
    network, victim = run.cluster.network, victim_of(run)
    assert network is not None
    ports = [member.port for member in run.cluster.members]
    cuts: list[tuple[str, float]] = [("both", SHORT_S), ("both", LONG_S)]
    if not short:
        cuts += [("in", LONG_S), ("out", LONG_S), ("reset", LONG_S), ("loss30", 15.0)]
    for how, length in cuts:
        kept = length == SHORT_S
        limits: Record = {"L": TAKE_OVER_S}
        if kept:
            limits = {"L": SHORT_S + 1.5, "ownership_changes": 0}
        elif how != "loss30":
            limits["changes_min"] = 30
        with run.phase(f"F25 {how} {length:g} s", **limits):
            with run.fault(
                "F25", f"{victim.name} {how} {length:g} s", 1.5 if kept or how == "loss30" else TAKE_OVER_S - length
            ):
                network.cut(victim.name, ports, how)
                time.sleep(length)  # the cut is the fault
                network.heal(victim.name)
            if not kept:
                wait_until(lambda: victim.name in run.cluster.loads(), timeout_s=8, what="it has joined again")


def client_crash(run: Run, _short: bool) -> None:
    victim = run.watchers[0]
    with run.phase("F31", L=1.5, ownership_changes=0) as notes:
        with run.fault("F31", victim.config["src"], 1.0):
            victim.process.send_signal(SIGSTOP)  # type: ignore[union-attr]
            time.sleep(0.4)  # triggers pile up on it, unanswered
            streams = victim.open_streams()
            for stream in streams:
                run.clients.note(type="stream_lost", src=victim.config["src"], stream=stream)
            victim.kill()
        notes["streams"] = len(streams)
        run.tail(1.5)
        run.watch(APPS[0])
        run.wait_streams()


def client_never_answers(run: Run, short: bool) -> None:
    app = ("mute", "app-0")
    seconds = 6 if short else 20
    with run.phase("F34", L_unmoved=MEASURED_S, D=0, ownership_changes=0) as notes:
        mute = run.watch(app, "mute")
        run.wait_streams()
        before = [replica.resident_bytes() for replica in run.cluster.replicas]
        names = [f"unanswered-{number}" for number in range(60)]
        for name in names:
            run.clients.schedule(app, name, {"schedule": "@every 1s", "unanswered": True})
        run.tail(seconds)
        grown = max(replica.resident_bytes() - old for replica, old in zip(run.cluster.replicas, before, strict=True))
        notes["memory grew MiB"] = round(grown / 2**20, 1)
        assert grown < 16 << 20, f"{grown} bytes for 60 jobs that wait"
        for name in names:
            run.clients.delete(app, name)
        for stream in mute.open_streams():
            run.clients.note(type="stream_lost", src=mute.config["src"], stream=stream)
        mute.terminate()


REPLICA_SCENARIOS = {
    "F1": Scenario("an owner crashes; comes back later, and at once", owner_crash),
    "F2": Scenario("rolling restart by SIGTERM; a member is drained and let back", rolling_restart),
    "F3": Scenario("an owner is paused for 2.5 s and for 10 s", zombie_owner),
    "F22": Scenario("etcd compacts while a replica is cut off", watch_compaction, lambda: {"namespaces": True}),
    "F25": Scenario(
        "a replica is cut off from etcd: whole, one way, reset, 30 % loss", etcd_cut, lambda: {"namespaces": True}
    ),
    "F31": Scenario("a client dies with answers pending", client_crash),
    "F34": Scenario("a client never answers", client_never_answers),
}
