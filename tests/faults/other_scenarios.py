"""Crashes at every step, clocks that are set, and a storm of jobs (reliability: F7, F40, F46)."""

import random
import time
from pathlib import Path
from threading import Thread

from tests.checker.judge import Bounds
from tests.faults.cluster import FaultReplica
from tests.faults.launcher import STEPS
from tests.faults.machine import faketime_library, require
from tests.faults.run import TAKE_OVER_S, Run
from tests.faults.scenarios import Scenario
from tests.faults.workload import APPS
from tests.support.processes import wait_until

LAUNCHER = "tests.faults.launcher"


def crash_points(run: Run, short: bool) -> None:
    """One replica is crashed before and after each step, and comes back at once with the next crash in wait."""
    chances = random.Random(run.seed)
    victim = run.cluster.replicas[1]
    points = [(step, side) for step in STEPS for side in ("before", "after")]
    with run.phase("F7", L=TAKE_OVER_S, changes_min=30 * len(points)) as notes:
        for step, side in points:
            count = 1 if step in {"release", "checkpoint", "claim"} else chances.randrange(1, 6)
            point = f"{step}:{side}:{count}"
            with run.fault("F7", point, TAKE_OVER_S):
                victim.close()
                victim.start(LAUNCHER, SCHEDULER_TEST_CRASH=point)
                if step == "release":
                    run.cluster.settle()
                    victim.process.terminate()  # type: ignore[union-attr]
                wait_until(lambda: not victim.alive, timeout_s=25, what=f"it crashes at {point}")
            assert f"crash point {step} {side}" in victim.tail(20_000).splitlines(), f"it ended, but not at {point}"
        notes["crash points"] = len(points)
        victim.start()


def _set_clock(replica: FaultReplica, seconds: int) -> None:
    """Atomically: the library reads the file at every look at the clock."""
    clock = replica.directory / "clock"
    new = Path(f"{clock}.new")
    new.write_text(f"{seconds:+d}\n")
    new.replace(clock)


def clock_steps(run: Run, short: bool) -> None:
    """The wall clocks of replicas jump; leases do not care, nothing is lost or doubled, and what is committed does not come again."""
    run.bounds = Bounds(targets_min=60, skew_s=620)
    run.watch(APPS[0])
    run.watch(APPS[1])
    run.wait_streams()
    for app in APPS:
        for number in range(12):
            run.clients.schedule(app, f"every-10s-{number}", {"schedule": "@every 10s"})
            run.clients.schedule(app, f"every-2s-{number}", {"schedule": "@every 2s", "repeats": 30})
        for at in range(2, 40, 2):
            run.clients.schedule(app, f"once-{at}", {"due_time": f"{at}s"})
    run.tail(2)
    one, every = run.cluster.replicas[:1], run.cluster.replicas
    away_s = 3.0 if short else 8.0
    for who, replicas, seconds in (
        ("one", one, -900),
        ("all", every, -900),
        ("one", one, 600),
        ("all", every, 30),
    ):
        with run.phase(f"F40 {seconds:+d} s {who}", L=away_s + 2, D=0, ownership_changes=0):
            with run.fault("F40", f"{seconds:+d} s on {who}", 2.0):
                for replica in replicas:
                    _set_clock(replica, seconds)
                time.sleep(away_s)  # the wrong clock is the fault
                for replica in replicas:
                    _set_clock(replica, 0)
            run.tail(3)


STORM, STORM_DRAIN_PER_S = 20_000, 1_500


def storm(run: Run, short: bool) -> None:
    """Thousands of one-shots of one namespace in one second; the others' jobs are hardly late."""
    app, count = ("storm", "app-0"), STORM // 10 if short else STORM
    drain_s = 2 + count / STORM_DRAIN_PER_S
    run.watch(app)
    run.watch(app)
    run.wait_streams()
    lead_s = 15 + count / 250  # a client in Python creates some 600 a second
    due = time.time() + lead_s
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(due)) + "Z"

    def create(numbers: range) -> None:
        for number in numbers:
            code = run.clients.schedule(app, f"storm-{number}", {"due_time": text})
            assert code == "OK", code

    callers = [Thread(target=create, args=(range(start, count, 6),)) for start in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert time.time() < due, "creating took too long for the due time"
    with run.phase("F46", L_of_storm=drain_s, L_of_blue=2.0, L_of_green=2.0, D=0, ownership_changes=0) as notes:
        before = max(replica.resident_bytes() for replica in run.cluster.replicas)
        wait_until(lambda: time.time() >= due - 0.2, timeout_s=lead_s + 5, what="the storm is due")
        with run.fault("F46", f"{count} jobs", drain_s):
            wait_until(lambda: time.time() >= due, timeout_s=5, what="the storm begins")
            wait_until(
                lambda: sum(one.metric("scheduler_jobs_finished_total") for one in run.cluster.replicas) >= count,
                timeout_s=drain_s + 30,
                what="the storm has been fired and cleared away",
            )
        notes["jobs"] = count
        notes["drained and deleted after s"] = round(time.time() - due, 1)
        grown = max(replica.resident_bytes() for replica in run.cluster.replicas) - before
        notes["memory grew MiB"] = round(grown / 2**20, 1)


def _faketime() -> dict[str, str]:
    return {
        "LD_PRELOAD": str(faketime_library()),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_TIMESTAMP_FILE": "{directory}/clock",
    }


def _clock_site() -> dict[str, object]:
    require("faketime")
    return {"load": False, "environment": _faketime()}


OTHER_SCENARIOS = {
    "F7": Scenario(
        "a replica crashes before and after each step of a job's life",
        crash_points,
        lambda: {"members": 1, "replicas": 2},
    ),
    "F40": Scenario("wall clocks jump by minutes, on one replica and on all", clock_steps, _clock_site),
    "F46": Scenario("a storm of one-shots in one second", storm),
}
