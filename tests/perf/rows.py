"""What is measured: the rows of docs/performance.md, how each is run, and the bars that it is held to.

The bars and the reference's figures were taken on a machine whose factor is 1.0. A row's figures are named as the clients name them.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from tests.perf import idle
from tests.perf.clients import Run, Work, client_for
from tests.perf.site import Site, factor, most_resident_bytes, on_one_host, running

LATE_50, LATE_99 = "lateness p50 (ms)", "lateness p99 (ms)"
CREATES, CREATE_50, CREATE_CPU = "creates (per s)", "create p50 (ms)", "server CPU per create (us)"
STORM, CPU, CORES = "triggers first to last (per s)", "server CPU per trigger (us)", "server CPU (cores)"
TRANSACTIONS, MEMORY = "etcd transactions per trigger", "replica memory at most (MiB)"


_ROUNDS_WITHOUT_BAR = 3
# A deleted job may still be fired for so long (promise G8): the next round's client must not take it for one of its own.
_DELETED_S = 1.0


class Bar(NamedTuple):
    """One figure of a row: what it must reach (None: it is only told), and what the Go reference does."""

    figure: str
    must: float | None = None
    reference: str = ""


class Row(NamedTuple):
    """One row."""

    key: str
    label: str
    bars: tuple[Bar, ...]
    measure: "Callable[[Row, int], Measured]"
    work: Work | None = None
    replicas: int = 1
    # More than one: that many replicas on one host, under one supervisor.
    processes: int = 1
    # Rows without a bar need not take the time of five.
    rounds_max: int = 100


class Measured(NamedTuple):
    """What measuring a row gave."""

    client: str
    command: str
    rounds: list[Run]
    factors: list[float | None]


def by_client(row: Row, rounds: int) -> Measured:
    """A client on fresh servers, so many times."""
    assert row.work is not None
    with on_one_host(row.processes) if row.processes > 1 else running(row.replicas) as site:
        before = factor()
        runs = []
        for _ in range(rounds):
            runs.append(one_run(row, site))
            time.sleep(_DELETED_S)
        return Measured(client_for(row.work.mode).name, runs[0].command, runs, [before, factor()])


def one_run(row: Row, site: Site) -> Run:
    """One run of a row's client, with what the servers themselves tell."""
    assert row.work is not None
    client, wanted = client_for(row.work.mode), {bar.figure for bar in row.bars}
    more: dict[str, float] = {}
    if TRANSACTIONS in wanted:
        with site.counting_transactions(row.work.seconds - 4, more):
            run = client.run(row.work, site.target)
    else:
        run = client.run(row.work, site.target)
    if MEMORY in wanted:
        more[MEMORY] = sum(most_resident_bytes(one.pid) for one in site.replicas) / 2**20
    return run._replace(figures=run.figures | more)


def a_million(row: Row, rounds: int) -> Measured:
    """Restarts on a million idle jobs, and what a trigger costs beside them, and beside a thousand."""
    assert row.work is not None
    before = factor()
    runs = list(idle.restarts(rounds, 1_000_000, 100, beside=row.work))
    return Measured(client_for(row.work.mode).name, runs[0].command, runs, [before, factor()])


def _row(key: str, label: str, work: Work, *bars: Bar, replicas: int = 1, processes: int = 1) -> Row:
    rounds_max = 100 if any(bar.must for bar in bars) else _ROUNDS_WITHOUT_BAR
    return Row(key, label, bars, by_client, work, replicas, processes, rounds_max)


ROWS = (
    _row(
        "creates", "creates, 128 at once", Work("create", 10_000),
        Bar(CREATES, 4_500, "2,900"), Bar(CREATE_50, 28, "36"), Bar(CREATE_CPU, 230, "510"),
    ),
    _row(
        "storm", "20,000 one-shots due at one instant, deletion included", Work("storm", 20_000),
        Bar(STORM, 45_000, "13,500 to 25,700"), Bar(CPU, 75, "240 to 310"),
    ),
    _row(
        "instant-10000", "`@every 1s`, 10,000 jobs at one instant", Work("every", 10_000),
        Bar(LATE_99, 300, "saturates at 7,500 /s"), Bar(CPU, 28, "250"),
    ),
    _row(
        "spread-1000", "`@every 1s`, 1,000 jobs spread over the second", Work("every", 1_000, spread_s=1),
        Bar(LATE_50, 3, "0.3"), Bar(LATE_99, 15, "6.7"), Bar(CORES, 0.55, "1.05"),
    ),
    _row(
        "spread-6000", "the same, 6,000 jobs", Work("every", 6_000, spread_s=1),
        Bar(LATE_50, 4, "7"), Bar(LATE_99, 20, "66"), Bar(CORES, 0.8, "1.63"),
    ),
    _row(
        "spread-20000", "the same, 20,000 jobs for a minute", Work("every", 20_000, 60, spread_s=1),
        Bar(LATE_50, 5, "saturates at 6,800 /s"), Bar(LATE_99, 50), Bar(CORES, 1.2),
    ),
    _row(
        "transactions", "the same, 10,000 jobs", Work("every", 10_000, spread_s=1),
        Bar(TRANSACTIONS, 0.01, "1 or more"), Bar(LATE_99), Bar(CPU),
    ),
    Row(
        "million", "1,000,000 idle jobs of 100 B of payload", (
            Bar(idle.MEMORY, 600, "5,800 with etcd"), Bar(idle.FIRST, 25, "100,000 jobs: 3"), Bar(idle.LOADED), Bar(idle.RATIO, 1.2),
        ), a_million, Work("every", 5_000, 6, spread_s=1),
    ),
    _row(
        "three-creates", "three replicas: creates, 128 at once", Work("create", 10_000, creates_per_s=1_500),
        Bar(CREATES, 3_000, "1,600"), Bar(CREATE_CPU, 500, "1,000"), replicas=3,
    ),
    _row(
        "three-instant", "three replicas: `@every 1s`, 3,000 jobs at one instant", Work("every", 3_000, creates_per_s=1_500),
        Bar(LATE_99, 60, "92"), Bar(CPU, 80, "366"), replicas=3,
    ),
    _row(
        "two-creates", "`--processes 2`: creates, 128 at once", Work("create", 10_000), Bar(CREATES), Bar(CREATE_CPU), processes=2,
    ),
    _row(
        "two-storm", "`--processes 2`: 20,000 one-shots due at one instant", Work("storm", 20_000), Bar(STORM), Bar(CPU), processes=2,
    ),
    _row(
        "mixed", "for a minute: 10,000 triggers/s, 500 creates/s, 200 deletes/s, 50 lists/s of 100 jobs",
        Work("mixed", 10_000, 60, spread_s=1, creates_per_s=1_200),
        Bar(LATE_99, 150), Bar("create p99 (ms)"), Bar("list p99 (ms)"), Bar(CPU),
    ),
    _row(
        "creates-64k", "creates of 64 KiB, 16 at once", Work("create", 1_000, payload_bytes=65_536, concurrency=16),
        Bar(CREATES), Bar(CREATE_50), Bar(CREATE_CPU), Bar(MEMORY),
    ),
    _row(
        "storm-64k", "1,000 one-shots of 64 KiB at one instant", Work("storm", 1_000, payload_bytes=65_536, creates_per_s=300),
        Bar(STORM), Bar(CPU), Bar(MEMORY),
    ),
    _row(
        "creates-1m", "creates of 1 MiB, 4 at once", Work("create", 100, payload_bytes=1 << 20, concurrency=4),
        Bar(CREATES), Bar(CREATE_50), Bar(CREATE_CPU), Bar(MEMORY),
    ),
    _row(
        "storm-1m", "100 one-shots of 1 MiB at one instant", Work("storm", 100, payload_bytes=1 << 20, concurrency=4, creates_per_s=20),
        Bar(STORM), Bar(CPU), Bar(MEMORY),
    ),
)  # fmt: skip
