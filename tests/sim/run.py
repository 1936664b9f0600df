"""Many seeds, in processes of their own; and what is told of one that fails."""

import gc
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.sim.loop import MACHINE
from tests.sim.world import World, run_seed

KEPT = Path(__file__).with_name("seeds.txt")
LAST_EVENTS = 40
_CHUNK = 10
_WEATHER = {
    "fault", "heal", "thaw", "boot", "crash", "sigterm", "stopped", "healed", "lease ended", "space again", "leader again", "VIOLATION", "LOG", "wall"
}  # fmt: skip


class Result(NamedTuple):
    """One seed's outcome; `verdict` is empty where every promise held."""

    seed: int
    verdict: str
    virtual_s: float
    steps: int
    counts: dict[str, int]


def kept_seeds() -> list[int]:
    """Seeds that once found a fault."""
    lines = KEPT.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def result_of(world: World) -> Result:
    violation = world.checker.violation
    return Result(world.seed, str(violation or ""), world.virtual_s, world.steps, world.checker.counts)


def run_seeds(seeds: Iterable[int], prepare: Callable[[World], None] | None = None) -> list[Result]:
    """Here and now, one after the other."""
    quiet()
    results = [result_of(run_seed(seed, prepare=prepare)) for seed in seeds]
    gc.collect()
    return results


def quiet() -> None:
    """The rooms' logs are part of a trace and nothing else."""
    logging.getLogger("scheduler").setLevel(logging.CRITICAL + 1)


def _start_worker() -> None:
    quiet()
    gc.collect()
    gc.freeze()


def run_many(seeds: list[int], processes: int) -> Iterator[Result]:
    """In any order."""
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    with multiprocessing.get_context("fork").Pool(processes, _start_worker, maxtasksperchild=50) as pool:
        for results in pool.imap_unordered(run_seeds, chunks):
            yield from results


class Report:
    """Progress and sums."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.started_s = time.monotonic()
        self.done = 0
        self.virtual_s = 0.0
        self.sums: Counter[str] = Counter()
        self.failed: list[Result] = []

    def take(self, result: Result) -> None:
        self.done += 1
        self.virtual_s += result.virtual_s
        self.sums.update(result.counts)
        if result.verdict:
            self.failed.append(result)
            print(f"FAILED seed {result.seed}: {result.verdict}", flush=True)
        if self.done % 250 == 0 or self.done == self.total:
            print(self.line(), flush=True)

    def line(self) -> str:
        took_s = time.monotonic() - self.started_s
        sums = ", ".join(f"{count} {name}" for name, count in self.sums.items())
        rate = self.done / took_s
        return f"{self.done} of {self.total} seeds, {len(self.failed)} failed, {rate:.1f} seeds/s, {self.virtual_s:.0f} virtual s: {sums}"


def replay(seed: int, *, everything: bool) -> World:
    """Run one seed and tell its story: all of it, or what concerns the job in question."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            machine = MACHINE.get()
            fields = [f"{key}={value}" for key, value in getattr(record, "fields", {}).items()]
            world.log("LOG", machine.name if machine else "-", record.getMessage(), *fields)

    logger = logging.getLogger("scheduler")
    logger.handlers, logger.propagate = [Handler()], False
    logger.setLevel(logging.INFO if everything else logging.WARNING)
    world = World(seed)
    world.run()
    violation = world.checker.violation
    events = world.events if everything else _concerning(world, violation.subject if violation else None)
    for at_s, *what in events:
        print(f"{at_s:10.4f}  {' '.join(str(one) for one in what)}")
    print(
        f"seed {seed}: {violation or 'every promise held'}; {world.virtual_s:.1f} virtual s, {world.steps} steps, trace {world.trace_hash()}"
    )
    return world


def _concerning(world: World, subject: Any) -> list[tuple[Any, ...]]:
    def concerns(event: tuple[Any, ...]) -> bool:
        if event[1] in _WEATHER or subject is None:
            return event[1] in _WEATHER
        of_partition = event[1] in {"claim", "claim ended"} and event[2] == subject.partition
        return (
            of_partition or subject.generation in event or (subject.key in event and event[1] in {"invoke", "answer"})
        )

    return [event for event in world.events if concerns(event)][-LAST_EVENTS:]
