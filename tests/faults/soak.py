"""Random faults for a long time, one after the other, and nothing may grow: memory, tasks, leases, keys."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from statistics import mean
from typing import Any

from tests.checker.judge import Bounds
from tests.faults.cluster import FaultReplica
from tests.faults.machine import etcd_version
from tests.faults.run import TAKE_OVER_S, TTL_S, Run, revision, running
from tests.faults.scenarios import pause, wait_taken_over
from tests.support.processes import wait_until

# What the interpreter's allocator may hold more of at the end than in the first third.
GROWTH_MAX_BYTES = 12 << 20
TASKS_GROWTH_MAX = 8


def crash(run: Run, chances: random.Random) -> None:
    victim = _mortal(run, chances)
    with run.fault("crash", victim.name, TAKE_OVER_S):
        victim.kill()
    if chances.random() < 0.5:
        wait_taken_over(run, victim)
    victim.start()


def restart(run: Run, chances: random.Random) -> None:
    victim = _mortal(run, chances)
    with run.fault("restart", victim.name, 1.0):
        assert victim.terminate(15) == 0
    victim.start()


def replica_pause(run: Run, chances: random.Random) -> None:
    victim, seconds = chances.choice(run.cluster.replicas), chances.choice((1.0, 2.5, 8.0, 12.0))
    with run.fault("pause", f"{victim.name} {seconds:g} s", max(2.0, TAKE_OVER_S - seconds)):
        pause(victim, seconds)


def member_pause(run: Run, chances: random.Random) -> None:
    member, seconds = chances.choice(run.cluster.members), chances.choice((1.0, 4.0, 9.0))
    with run.fault("etcd pause", f"{member.name} {seconds:g} s", 5.0):
        assert member.process is not None
        member.process.send_signal(SIGSTOP)
        time.sleep(seconds)  # the pause is the fault
        member.process.send_signal(SIGCONT)


def member_crash(run: Run, chances: random.Random) -> None:
    member = chances.choice(run.cluster.members)
    with run.fault("etcd crash", member.name, 5.0):
        member.kill()
        time.sleep(chances.uniform(0, 4))  # how long it is away is part of the fault
        member.start()
        wait_until(lambda: member.status() is not None, timeout_s=30, what=f"{member.name} is back")


def cut(run: Run, chances: random.Random) -> None:
    victim, seconds = chances.choice(run.cluster.replicas), chances.choice((2.0, 9.0))
    how = chances.choice(("both", "in", "out", "reset", "loss30"))
    network = run.cluster.network
    assert network is not None
    with run.fault("cut", f"{victim.name} {how} {seconds:g} s", max(2.0, TAKE_OVER_S + 1 - seconds)):
        network.cut(victim.name, [member.port for member in run.cluster.members], how)
        time.sleep(seconds)  # the cut is the fault
        network.heal(victim.name)


def client_crash(run: Run, chances: random.Random) -> None:
    alive = [one for one in run.watchers if one.process is not None and one.process.poll() is None]
    victim = chances.choice(alive)
    with run.fault("client crash", victim.config["src"], 3.0):
        for stream in victim.open_streams():
            run.clients.note(type="stream_lost", src=victim.config["src"], stream=stream)
        victim.kill()
        run.watch((victim.config["ns"], victim.config["app"]))
        run.wait_streams()


FAULTS: tuple[Callable[[Run, random.Random], None], ...] = (
    crash,
    restart,
    replica_pause,
    member_pause,
    member_crash,
    cut,
    client_crash,
)


def _mortal(run: Run, chances: random.Random) -> FaultReplica:
    """The first replica is never restarted: its memory and tasks are what must not grow."""
    return chances.choice(run.cluster.replicas[1:])


def soak(directory: Path, *, seconds: float, seed: int) -> dict[str, Any]:
    """One row of results."""
    chances = random.Random(seed)
    counts: dict[str, int] = {}
    samples: list[dict[str, float]] = []
    with running(directory, seed=seed, seconds=int(seconds), namespaces=True) as run:
        eldest = run.cluster.replicas[0]
        began, begin_wall = time.monotonic(), time.time_ns()
        while (passed := time.monotonic() - began) < seconds:
            play = chances.choice(FAULTS)
            counts[play.__name__] = counts.get(play.__name__, 0) + 1
            play(run, chances)
            run.cluster.settle(timeout_s=3 * TTL_S + 20)
            run.tail(chances.uniform(1.0, 4.0))
            assert eldest.alive, "nothing needs a restart"
            samples.append(
                {
                    "at s": round(passed),
                    "resident": eldest.resident_bytes(),
                    "tasks": eldest.metric("scheduler_tasks"),
                    "jobs": sum(one.metric("scheduler_jobs") for one in run.cluster.replicas),
                    "keys": run.keys(),
                    "leases": run.cluster.leases(),
                }
            )
            run.say(str(samples[-1]))
        run.bounds = Bounds(targets_min=int(20 * seconds), faults_min=int(seconds / 30), ownership_changes_min=30)
        report = run.finish(tail_s=10)
        problems = [f"{kind}: {detail}" for kind, detail in report.problems[:10]] + growth(samples)
        return {
            "fault": f"soak {seconds / 60:g} min",
            "verdict": "fail" if problems else "pass",
            "problems": problems,
            **report.figures(begin_wall),
            "notes": {**counts, **_thirds(samples)},
            "seed": seed,
            "etcd": etcd_version(),
            "revision": revision(),
        }


def _split(samples: list[dict[str, float]]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """The second and the last quarter: in the first everything is still warming up."""
    quarter = max(1, len(samples) // 4)
    return samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]


def _thirds(samples: list[dict[str, float]]) -> dict[str, str]:
    early, late = _split(samples)
    return {
        what: f"{mean(one[what] for one in early):.0f} -> {mean(one[what] for one in late):.0f}"
        for what in ("resident", "tasks", "keys", "leases")
    }


def growth(samples: list[dict[str, float]]) -> list[str]:
    """What has grown between the second quarter and the last."""
    early, late = _split(samples)

    def grown(what: str) -> float:
        return mean(one[what] for one in late) - mean(one[what] for one in early)

    problems = []
    if grown("resident") > GROWTH_MAX_BYTES:
        problems.append(f"leak: {grown('resident') / 2**20:.1f} MiB of memory")
    if grown("tasks") > TASKS_GROWTH_MAX:
        problems.append(f"leak: {grown('tasks'):.0f} tasks")
    # Journals grow until they are folded, each partition's for itself: 256 batches, and what comes meanwhile.
    most = max(one["jobs"] for one in late) + 128 * 300 + 300
    if max(one["keys"] for one in late) > most:
        problems.append(f"leak: {max(one['keys'] for one in late):.0f} keys, at most {most:.0f} may be")
    return problems
