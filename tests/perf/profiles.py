"""`scripts/profile PATH...`: where the time goes on a path, on a real etcd and a real replica that `scheduler bench` drives.

Twice: as it is, for the CPU of the replica and of etcd for each item, and with cProfile in the replica, for its functions, by CPU time (small ones look several
times dearer than they are: the shares count). A path that shares the process with others is cut out of the profile by the functions that it begins with.
What C functions and the kernel cost is perf's to tell (`perf record -p PID`), where it is installed.
"""

import asyncio
import pstats
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.perf.clients import OurBench, Target, Work
from tests.perf.idle import fill
from tests.perf.site import cpu_s, factor, samples, stop_when_told
from tests.support.processes import EtcdServer, Replica, wait_until

TOP = 15
# So many calls below its root a function still counts.
_DEPTH = 40
_JOBS, _SENT = "scheduler_jobs", "scheduler_triggers_sent_total"
_CREATED = 'scheduler_jobs_created_total{type="job"}'
# Where the loop calls us: of all that the replica does, what is for jobs, without the metrics that we ask for.
_EVERYTHING = (
    "transport.py:buffer_updated", "transport.py:_flush", "engine.py:_run_due", "engine.py:_load", "hub.py:flush",
    "jobs.py:run", "commits.py:run", "commits.py:run_deletions",
)  # fmt: skip
Function = tuple[str, int, str]
Samples = dict[str, float]


class Way(NamedTuple):
    """A path: what drives it, from when to when it is looked at, and what is counted meanwhile. `began` is what the metrics said before."""

    item: str
    work: Work
    begins: Callable[[Samples, Samples, int], bool]
    ends: Callable[[Samples, Samples, int], bool]
    counted: str
    # "file.py:function" from which it goes on.
    roots: tuple[str, ...] = _EVERYTHING
    arguments: tuple[str, ...] = ()


def _sent(now: Samples, began: Samples) -> float:
    return now.get(_SENT, 0.0) - began.get(_SENT, 0.0)


def _created(now: Samples, began: Samples) -> float:
    return now.get(_CREATED, 0.0) - began.get(_CREATED, 0.0)


def _recurring(item: str, *roots: str, arguments: tuple[str, ...] = ()) -> Way:
    """Jobs of each second, from a second after the first were due, for three seconds."""
    return Way(
        item,
        Work("every", 1_000, 5, spread_s=1, creates_per_s=500),
        lambda now, began, jobs: _sent(now, began) >= jobs,
        lambda now, began, jobs: _sent(now, began) >= 4 * jobs,
        _SENT,
        roots,
        arguments,
    )


WAYS = {
    "create": Way(
        "create", Work("create", 4_000, concurrency=64), lambda _, __, ___: True,
        lambda now, began, jobs: _created(now, began) >= jobs, _CREATED,
    ),
    "one-shot": Way(
        "one-shot", Work("storm", 3_000, creates_per_s=1_000), lambda now, _, jobs: now[_JOBS] >= jobs,
        lambda now, began, jobs: _sent(now, began) >= jobs and not now[_JOBS], _SENT,
    ),
    "trigger": _recurring("trigger", "engine.py:_run_due", "hub.py:flush", "transport.py:_flush"),
    "acknowledgement": _recurring("acknowledgement", "transport.py:buffer_updated"),
    "commit": _recurring("committed trigger", "commits.py:_commit"),
    # One partition, so that its journal is long enough to be folded within a second or two.
    "checkpoint": _recurring("trigger", "commits.py:_fold", arguments=("--partitions=1",)),
}  # fmt: skip
LOAD = "load"
_LOADED = 20_000


class _Profiled(Replica):
    """A replica with cProfile in it."""

    at_once = False

    @property
    def profile(self) -> Path:
        return self.directory / f"{self.name}.profile"

    def spawn(self, command: list[str], env: dict[str, str] | None = None) -> None:
        place = command.index("scheduler")
        command = [*command[:place], "tests.perf.profiled", str(self.profile), *command[place + 1 :]]
        super().spawn(command, {"PROFILE_AT_ONCE": "1"} if self.at_once else env)

    def begin(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)

    def end(self) -> dict[Function, Any]:
        """What has been counted."""
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR2)
        wait_until(self.profile.exists, timeout_s=30, what="the profile is written")
        found: dict[Function, Any] = pstats.Stats(str(self.profile)).stats  # type: ignore[attr-defined]
        self.profile.unlink()
        return found


class Cost(NamedTuple):
    """One look at a path."""

    count: float
    replica_us: float
    etcd_us: float
    functions: dict[Function, Any]


def _look(way: Way, etcd: EtcdServer, replica: _Profiled, *, profiled: bool) -> Cost:
    """Drive the path once."""
    began = samples(replica.metrics_port)
    target = Target((replica.address,), (etcd.pid, replica.pid))

    def seen(condition: Callable[[Samples, Samples, int], bool]) -> Samples:
        found: Samples = {}

        def holds() -> bool:
            nonlocal found
            if driving.done():
                driving.result()
            time.sleep(0.2)  # each look costs the replica some milliseconds
            found = samples(replica.metrics_port)
            return condition(found, began, way.work.jobs)

        wait_until(holds, timeout_s=60, what="the path is taken")
        return found

    with ThreadPoolExecutor(1) as threads:
        driving = threads.submit(OurBench().run, way.work, target)
        first = seen(way.begins)
        if profiled:
            replica.begin()
        before = cpu_s(replica.pid), cpu_s(etcd.pid)
        last = seen(way.ends)
        after = cpu_s(replica.pid), cpu_s(etcd.pid)
        functions = replica.end() if profiled else {}
        faults = driving.result().faults
    assert not any(faults.values()), faults
    wait_until(lambda: not samples(replica.metrics_port)[_JOBS], timeout_s=30, what="what the bench made is gone")
    count = last[way.counted] - first.get(way.counted, 0.0)
    replica_us, etcd_us = ((now - then) / count * 1e6 for now, then in zip(after, before, strict=True))
    return Cost(count, replica_us, etcd_us, functions)


def _load(etcd: EtcdServer, directory: Path) -> Cost:
    """Start on jobs that are there, against a start on none."""

    def start(replica: Replica, jobs: int) -> tuple[float, float]:
        then = cpu_s(etcd.pid)
        replica.start().wait_healthy(60)
        wait_until(lambda: samples(replica.metrics_port)[_JOBS] >= jobs, timeout_s=60, what="all is loaded")
        return cpu_s(replica.pid), cpu_s(etcd.pid) - then

    empty = Replica("empty", directory, etcd.endpoint)
    nothing = start(empty, 0)
    empty.terminate()
    asyncio.run(fill(etcd.endpoint, _LOADED, 100))
    plain = Replica("plain", directory, etcd.endpoint)
    all_of_it = start(plain, _LOADED)
    plain.terminate()
    profiled = _Profiled("profiled", directory, etcd.endpoint)
    profiled.at_once = True
    try:
        start(profiled, _LOADED)
        functions = profiled.end()
    finally:
        profiled.close()
    replica_us, etcd_us = ((more - less) / _LOADED * 1e6 for more, less in zip(all_of_it, nothing, strict=True))
    return Cost(_LOADED, replica_us, etcd_us, functions)


def cut(functions: dict[Function, Any], roots: tuple[str, ...]) -> dict[Function, tuple[float, float]]:
    """Calls and seconds of each function, of what the roots lead to: a function's time is divided among its callers by their calls."""
    share = {function: 1.0 for function in functions if f"{Path(function[0]).name}:{function[2]}" in roots}
    fixed = dict(share)
    for _ in range(_DEPTH):
        share = {
            function: sum(edge[0] * share[caller] for caller, edge in entry[4].items() if caller in share) / entry[1]
            for function, entry in functions.items()
        } | fixed
    return {
        function: (functions[function][1] * part, functions[function][2] * part)
        for function, part in share.items()
        if part
    }


def _name(function: Function) -> str:
    path, line, name = function
    if "/scheduler/" in path:
        return f"{path.rpartition('/scheduler/')[2]}:{line} {name}"
    return name if path == "~" else f"{Path(path).name}:{line} {name}"


def lines(key: str, item: str, cost: Cost, roots: tuple[str, ...]) -> Iterator[str]:
    """The path's table."""
    of = cut(cost.functions, roots)
    whole_s = sum(seconds for _, seconds in of.values())
    yield f"{key}: {cost.replica_us:.1f} us of CPU of the replica and {cost.etcd_us:.1f} us of etcd for each {item}, all that they do meanwhile"
    yield f"under cProfile what leads there takes {whole_s / cost.count * 1e6:.1f} us for each {item}:"
    yield f"  {'us':>8} {'share':>6} {'calls':>7}"
    for function, (calls, seconds) in sorted(of.items(), key=lambda one: -one[1][1])[:TOP]:
        yield f"  {seconds / cost.count * 1e6:8.2f} {seconds / whole_s:6.1%} {calls / cost.count:7.2f}  {_name(function)}"


def profile(key: str, work: Work | None = None) -> list[str]:
    """Look at one path, on fresh processes; `work`: another amount of it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        etcd = EtcdServer(directory / "etcd").start()
        try:
            if key == LOAD:
                return list(lines(key, "record", _load(etcd, directory), _EVERYTHING))
            way = WAYS[key]._replace(work=work or WAYS[key].work)
            replica = _Profiled("profiled", directory, etcd.endpoint, *way.arguments)
            try:
                replica.start().wait_healthy(60)
                cost = _look(way, etcd, replica, profiled=False)
                profiled = _look(way, etcd, replica, profiled=True)
            finally:
                replica.close()
            return list(
                lines(key, way.item, profiled._replace(replica_us=cost.replica_us, etcd_us=cost.etcd_us), way.roots)
            )
        finally:
            etcd.close()


def main() -> int:
    """The command."""
    paths = [*WAYS, LOAD]
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", choices=[*paths, "all"], help=", ".join([*paths, "all"]))
    wanted = parser.parse_args().paths
    stop_when_told()
    print(f"factor: {factor()}")
    for key in paths if "all" in wanted else wanted:
        began = time.monotonic()
        print("\n".join(["", *profile(key), f"({time.monotonic() - began:.0f} s)"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
