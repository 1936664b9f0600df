"""What a run of the bench found: figures, a table for people, JSON for the next run to be compared with."""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler import __version__

_BOUNDS_MS = (1, 2, 3, 5, 8, 13, 20, 30, 50, 80, 130, 200, 300, 500, 1_000, 2_000, 5_000, 10_000)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True, kw_only=True)
class Result:
    """One mode's run. Figures carry their unit in their name; `faults` are triggers early or repeated, missing, and streams that were lost."""

    mode: str
    parameters: dict[str, float]
    figures: dict[str, float] = field(default_factory=dict)
    lateness: list[tuple[float, int]] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        """No trigger early, repeated or missing."""
        return not any(self.faults.values())


def quantiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    last = len(ordered) - 1
    points = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    return {f"{name} {label} (ms)": ordered[round(last * share)] * 1e3 for label, share in points}


def histogram(seconds: Sequence[float]) -> list[tuple[float, int]]:
    """Counts up to each bound in milliseconds; the last bound is infinite."""
    ordered = sorted(seconds)
    found: list[tuple[float, int]] = []
    position = 0
    for bound in (*_BOUNDS_MS, float("inf")):
        start = position
        while position < len(ordered) and ordered[position] * 1e3 <= bound:
            position += 1
        found.append((bound, position - start))
    return found


class Processes:
    """The server's processes, as /proc tells of them."""

    def __init__(self, pids: Sequence[int]) -> None:
        """Name all of them, etcd included, or the CPU per trigger is a lie."""
        self.pids = tuple(pids)

    def cpu_s(self) -> float:
        """CPU used so far."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS_PER_S

    def memory_bytes(self) -> int:
        """Memory held."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES for pid in self.pids)


def _figures_of(result: Result, against: dict[str, Any] | None) -> dict[str, float]:
    """What an earlier document has of the same mode and parameters."""
    found: dict[str, float] = {}
    for one in (against or {}).get("results", ()):
        if one["mode"] == result.mode and one["parameters"] == result.parameters:
            found = one["figures"]
    return found


def _ratios(result: Result, against: dict[str, Any]) -> dict[str, float]:
    earlier = _figures_of(result, against)
    return {name: round(value / earlier[name], 3) for name, value in result.figures.items() if earlier.get(name)}


def document(
    results: Sequence[Result], hosts: Sequence[str], now: str, against: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON form; with an earlier one, `ratios` of the figures that it has for the same mode and parameters."""
    return {
        "at": now,
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "hosts": len(hosts),
        "results": [
            {
                "mode": result.mode,
                "parameters": result.parameters,
                "figures": {name: round(value, 3) for name, value in result.figures.items()},
                "lateness_ms": [[str(bound), count] for bound, count in result.lateness if count],
                "faults": result.faults,
                **({} if against is None else {"ratios": _ratios(result, against)}),
            }
            for result in results
        ],
    }


def table(results: Sequence[Result], against: dict[str, Any] | None) -> Iterator[str]:
    """Lines for people; with an earlier document, each figure's ratio to that of the same mode and parameters."""
    for result in results:
        earlier = _figures_of(result, against)
        parameters = ", ".join(f"{name} {value:g}" for name, value in result.parameters.items())
        yield f"{result.mode}: {parameters}"
        for name, value in result.figures.items():
            line = f"  {name:<44}{value:>14,.2f}"
            if earlier.get(name):
                line += f"   {value / earlier[name]:.2f} x {earlier[name]:,.2f}"
            elif against is not None:
                line += "   nothing to compare with"
            yield line
        peak = max((count for _, count in result.lateness), default=0)
        for bound, count in result.lateness:
            if count:
                yield f"  late by up to {bound:>8} ms {count:>10,} {'#' * max(1, round(40 * count / peak))}"
        faults = ", ".join(f"{name} {count}" for name, count in result.faults.items())
        yield f"  {'correct' if result.correct else 'NOT CORRECT'}: {faults}" if faults else ""
