"""The clients that measure: the Go load client, which shares no code with us, where its source is there; our own bench otherwise.

Both are processes beside the servers. What they print becomes the same figures and faults; a figure carries its unit in its name.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.support.processes import ROOT

TOOLS = Path(os.environ.get("LOAD_SOURCE", ROOT.parent / "shared" / "tools"))
_BINARY = ROOT / ".cache" / "load-client"
_TRIES = 3
_NUMBER = r"([-+]?[\d.]+)"


class Work(NamedTuple):
    """What a client is to do; `creates_per_s` is how fast it may create at least, from which the time until jobs are due follows."""

    mode: str
    jobs: int
    seconds: int = 8
    spread_s: int = 0
    payload_bytes: int = 32
    concurrency: int = 128
    creates_per_s: int = 3_000
    more: tuple[str, ...] = ()


class Target(NamedTuple):
    """The servers: addresses, and all processes whose CPU counts."""

    addresses: tuple[str, ...]
    pids: tuple[int, ...]


class Run(NamedTuple):
    """What one run found."""

    figures: dict[str, float]
    faults: dict[str, int]
    command: str


class TooSlow(Exception):
    """Jobs were due before all were created."""


class LoadClient(Protocol):
    """One of the two."""

    name: str

    def run(self, work: Work, target: Target) -> Run:
        """One run. Raises AssertionError with what it printed where it failed."""


def _in_time(work: Work, attempt: Callable[[Work], Run]) -> Run:
    """Try with twice the time where creating took too long."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return attempt(work)
        except TooSlow:
            if not tries_left:
                raise
            work = work._replace(creates_per_s=max(1, work.creates_per_s // 2))
    raise AssertionError


class GoLoad:
    """`../shared/tools/load`, or what LOAD_SOURCE names, built once."""

    name = "the Go load client"
    modes = frozenset({"create", "storm", "every", "idle"})

    @classmethod
    def found(cls) -> "GoLoad | None":
        """None: there is no source, or no Go to build it."""
        source = TOOLS / "load"
        if not source.is_dir() or shutil.which("go") is None:
            return None
        if not _BINARY.exists():
            _BINARY.parent.mkdir(exist_ok=True)
            subprocess.run(["go", "build", "-o", str(_BINARY), "."], cwd=source, check=True)
        return cls()

    def run(self, work: Work, target: Target) -> Run:
        """See `LoadClient`."""
        return _in_time(work, lambda work: self._attempt(work, target))

    def _attempt(self, work: Work, target: Target) -> Run:
        due_s = work.jobs / work.creates_per_s + 2
        shown = ["-mode", work.mode, "-n", str(work.jobs), "-payload", str(work.payload_bytes)]
        shown += ["-conc", str(work.concurrency)]
        if work.mode == "every":
            # It adds its own guess of how long creating takes.
            shown += ["-for", f"{work.seconds}s", "-spread", f"{work.spread_s}s"]
            shown += ["-lead", f"{due_s - work.jobs / 1500:.1f}s"]
        command = [str(_BINARY), *shown, "-addr", ",".join(target.addresses)]
        command += ["-pids", ",".join(map(str, target.pids)), "-v", *work.more]
        environment = {**os.environ, "STORM_LEAD": f"{due_s:.0f}s"}
        ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
        if ran.returncode or "FAILED" in ran.stdout:
            raise AssertionError(ran.stdout + ran.stderr)
        if re.search(r"due in -", ran.stdout):
            raise TooSlow(ran.stdout)
        run = Run(*told_by_go(work, ran.stdout), f"load {' '.join(shown)}")
        if any(run.faults.values()):
            print(f"NOT CORRECT: {run.command}\n{ran.stdout}{ran.stderr}", file=sys.stderr, flush=True)
        return run


def told_by_go(work: Work, text: str) -> tuple[dict[str, float], dict[str, int]]:
    """Figures and faults from the Go client's lines."""

    def numbers(pattern: str) -> list[float]:
        match = re.search(pattern.replace("#", _NUMBER), text)
        assert match, f"no {pattern!r} in {text!r}"
        return [float(one) for one in match.groups()]

    if work.mode in {"create", "idle"}:
        rate, p50, p99, cpu = numbers(r"create: \d+ jobs, #/s, latency ms p50 # p99 # max .*server cpu # us/job")
        figures = {"creates (per s)": rate, "create p50 (ms)": p50, "create p99 (ms)": p99}
        return figures | {"server CPU per create (us)": cpu}, {}
    if work.mode == "storm":
        got, wanted, distinct, first_s, rate, cpu = numbers(
            r"storm: # of # triggers, # distinct, first # s after due, .* first to last, # triggers/s; server cpu # us/trigger"
        )
        figures = {"triggers first to last (per s)": rate, "server CPU per trigger (us)": cpu}
        faults = {"early": int(first_s < -0.001), "missing": wanted - distinct, "repeated": got - distinct}
        return figures, {name: int(count) for name, count in faults.items()}
    got, wanted, least, p50, p99, most, cores, cpu = numbers(
        r"every: # triggers of # expected .*; lateness ms .* min # p50 # p99 # max #; .*server cpu # cores, # us/trigger"
    )
    figures = {"lateness p50 (ms)": p50, "lateness p99 (ms)": p99, "lateness max (ms)": most}
    figures |= {"server CPU (cores)": cores, "server CPU per trigger (us)": cpu}
    # It counts up to an instant: what is due just before that may come just after it, and what is due then may come before it has counted. An
    # early or repeated trigger stands in the place of the next and makes the least lateness negative; a missed one makes the job's later ones
    # late by a whole second.
    still_on_their_way = work.jobs * min(1.0, most / 1000) if work.spread_s or most >= 1000 else 0
    faults = {
        "early or repeated": int(least < -1),
        "missing": max(0, int(wanted - got - still_on_their_way)),
    }
    return figures, faults


class OurBench:
    """`scheduler bench`."""

    name = "scheduler bench"

    def run(self, work: Work, target: Target) -> Run:
        """See `LoadClient`."""
        return _in_time(work, lambda work: self._attempt(work, target))

    def _attempt(self, work: Work, target: Target) -> Run:
        lead_s = int(work.jobs / work.creates_per_s + 2)
        shown = ["bench", work.mode, "-n", str(work.jobs), "--payload-bytes", str(work.payload_bytes)]
        shown += ["--concurrency", str(work.concurrency), *work.more]
        if work.mode not in {"create", "idle"}:
            shown += ["--lead", str(lead_s)]
        if work.mode in {"every", "mixed"}:
            shown += ["--seconds", str(work.seconds), "--spread", str(work.spread_s)]
        command = [sys.executable, "-m", "scheduler", *shown, "--address", target.addresses[0], "-o", "json"]
        command += ["--pids", ",".join(map(str, target.pids))]
        ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
        if "give more with --lead" in ran.stderr:
            raise TooSlow(ran.stderr)
        if not ran.stdout:
            raise AssertionError(ran.stderr)
        result = json.loads(ran.stdout)["results"][0]
        return Run(result["figures"], result["faults"], " ".join(shown))


def client_for(mode: str) -> LoadClient:
    """The Go client where it is there and knows that mode."""
    found = GoLoad.found() if mode in GoLoad.modes else None
    return found or OurBench()
