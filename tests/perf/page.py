"""docs/performance.md from docs/performance.json: what was measured, the same at factor 1.0, and whether the bar is reached."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.perf.plots import svg
from tests.perf.rows import ROWS, Bar, Row
from tests.perf.series import SERIES
from tests.support.processes import ROOT

JSON, PAGE = ROOT / "docs" / "performance.json", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
PLOTS = ROOT / "docs" / "plots"
PLOT_MARKS = ("<!-- plots: begin -->\n", "<!-- plots: end -->\n")
FAILOVER_MARKS = ("<!-- fail-over: begin -->\n", "<!-- fail-over: end -->\n")
# What a faster machine does more of, and what takes it less time. Counts, bytes and ratios are as they are.
_RATES, _TIMES = ("(per s)",), ("(ms)", "(us)", "(s)", "(cores)")

# Where a figure misses its bar at factor 1.0: whether it reaches it as measured. What waits by design is as late on any machine.
_MISSED = {True: "as measured yes, at 1.0 no", False: "**no**"}

Document = dict[str, Any]
"""Row key to what was measured."""


def kept() -> Document:
    """The figures in docs; empty: nobody has measured yet."""
    return json.loads(JSON.read_text()) if JSON.exists() else {}


def at_one(figure: str, value: float, factors: list[float | None]) -> float:
    """What it would be on the machine whose factor is 1.0."""
    known = [one for one in factors if one is not None]
    factor = statistics.mean(known) if known else 1.0
    if figure.endswith(_RATES):
        return value / factor
    return value * factor if figure.endswith(_TIMES) else value


def reached(bar: Bar, value: float) -> bool:
    """Rates must be so high, all else so low."""
    assert bar.must is not None
    return value >= bar.must if bar.figure.endswith(_RATES) else value <= bar.must


def number(value: float) -> str:
    """Three digits or so."""
    if value >= 1_000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _spread(values: list[float]) -> str:
    text = number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({number(min(values))} to {number(max(values))})"


def _lines(row: Row, entry: dict[str, Any]) -> Iterator[str]:
    """One line of the table for each figure."""
    faults: dict[str, int] = {}
    for one in entry["rounds"]:
        for name, count in one["faults"].items():
            faults[name] = faults.get(name, 0) + count
    wrong = ", ".join(f"{name} {count}" for name, count in faults.items() if count)
    first = (f"{row.label} | ", wrong or ("yes" if faults else ""))
    for bar in row.bars:
        values = [one["figures"][bar.figure] for one in entry["rounds"] if bar.figure in one["figures"]]
        if not values:
            continue
        median = statistics.median(values)
        fair = at_one(bar.figure, median, entry["factors"])
        verdict, must = "", ""
        if bar.must is not None:
            must = number(bar.must)
            verdict = "yes" if reached(bar, fair) else _MISSED[reached(bar, median)]
        yield f"| {first[0]}{bar.figure} | {_spread(values)} | {number(fair)} | {must} | {verdict} | {bar.reference} | {first[1]} |"
        first = (" | ", "")


def rendered(document: Document) -> Iterator[str]:
    """The lines between the page's marks."""
    rows = [(row, document[row.key]) for row in ROWS if row.key in document]
    yield "| | figure | measured | at factor 1.0 | must | reached | the Go reference | correct |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row, entry in rows:
        yield from _lines(row, entry)
    yield "\n| row | client and command | rounds | factor before, after | measured on |"
    yield "| --- | --- | --- | --- | --- |"
    for row, entry in rows:
        factors = ", ".join(f"{one:.2f}" for one in entry["factors"] if one is not None) or "unknown"
        on = f"{entry['at']}, {entry['machine']}, Python {entry['python']}, etcd {entry['etcd']}"
        yield f"| `{row.key}` | {entry['client']}: `{entry['command']}` | {len(entry['rounds'])} | {factors} | {on} |"


_FAILOVER = {
    "resumed after, s": "resumed after (s)",
    "promised, s": "resumes by promise (s)",
    "occurrences held up": "held up",
    "their backlog took, s": "backlog took (s)",
    "late by at most, s": "late by at most (s)",
    "where the owner stayed, s": "late by at most where the owner stayed (s)",
    "jobs that moved": "jobs that moved",
    "occurrences": "occurrences",
    "lost": "lost",
    "early": "early",
    "repeated": "repeated",
    "of these without cause": "repeated without cause",
}


def failover(found: Document) -> Iterator[str]:
    """The table of what `python -m tests.perf.failover` found."""
    yield f"\n| fault | triggers/s | verdict | {' | '.join(_FAILOVER)} | factor before, after |"
    yield f"| --- | --- | --- | {' | '.join('---' for _ in _FAILOVER)} | --- |"
    for entry in found.values():
        factors = ", ".join(f"{one:.2f}" for one in entry["factors"] if one is not None) or "unknown"
        for part in entry["parts"]:
            figures = " | ".join(number(part["figures"][figure]) for figure in _FAILOVER.values())
            verdict = "; ".join(part["problems"]) or "pass"
            yield f"| {part['name']} | {number(entry['jobs'])} | {verdict} | {figures} | {factors} |"


def _filled(page: str, marks: tuple[str, str], lines: Iterator[str], command: str) -> str:
    """The page with what stands between two marks made anew; without lines it says what makes them."""
    text = "\n".join(lines) or f"Not measured yet: run `{command}` on a machine that has nothing else to do."
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    return f"{before}{begin}{text.strip()}\n{end}{after}"


def _plots(found: Document) -> Iterator[str]:
    """Each plot with when it was measured."""
    for series in SERIES:
        if entry := found.get(series.key):
            factors = ", ".join(f"{one:.2f}" for one in entry["factors"] if one is not None) or "unknown"
            wrong = [f"{name} {count}" for one in entry["points"] for name, count in one["faults"].items() if count]
            verdict = f" NOT CORRECT: {', '.join(wrong)}." if wrong else ""
            yield f"![{series.title}](plots/{series.key}.svg)\n"
            yield f"Measured on {entry['at']}, factor before and after {factors}, one run a point.{verdict}\n"


def drawn(document: Document) -> dict[Path, str]:
    """The plots, by where they are kept."""
    return {
        PLOTS / f"{series.key}.svg": svg(
            series.title,
            series.grows,
            [(figure, [(one["x"], one["figures"][figure]) for one in entry["points"]]) for figure in series.figures],
            logarithmic=series.grows != "replicas",
        )
        for series in SERIES
        if (entry := document.get("series", {}).get(series.key))
    }


def render(page: str, document: Document) -> str:
    """The page with its measured parts made anew."""
    measured = document.keys() - {"failover", "series"}
    page = _filled(page, (BEGIN, END), rendered(document) if measured else iter(()), "scripts/measure")
    found, plotted = document.get("failover"), document.get("series")
    page = _filled(page, PLOT_MARKS, _plots(plotted) if plotted else iter(()), "scripts/measure --plots")
    return _filled(page, FAILOVER_MARKS, failover(found) if found else iter(()), "python -m tests.perf.failover")
