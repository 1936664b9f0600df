"""docs/performance.md says what docs/performance.json holds, and says so where a bar is missed or a run was not correct."""

import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from tests.perf import clients
from tests.perf.clients import OurBench, Run, TooSlow, Work, told_by_go
from tests.perf.page import BEGIN, END, FAILOVER_MARKS, PAGE, PLOT_MARKS, at_one, drawn, kept, render
from tests.perf.rows import CPU, CREATES, LATE_50, LATE_99, ROWS, TRANSACTIONS, one_run
from tests.perf.site import running
from tests.support.processes import ROOT


def entry(*rounds: tuple[dict, dict], factors=(2.0, 2.0)) -> dict:
    told = {"at": "2026-01-01 10:00", "machine": "m", "python": "3.11.7", "etcd": "3.4", "client": "c", "command": "x"}
    return {**told, "factors": list(factors), "rounds": [{"figures": one, "faults": faults} for one, faults in rounds]}


def page_of(document: dict) -> str:
    other = "".join((*PLOT_MARKS, *FAILOVER_MARKS))
    return render(f"a{BEGIN}old{END}{other}z", document)


def test_the_page_is_made_from_its_json() -> None:
    page = PAGE.read_text()
    assert page == render(page, kept()), "scripts/measure --render-only makes it anew"
    for path, text in drawn(kept()).items():
        assert path.read_text() == text, "scripts/measure --render-only makes it anew"


def test_a_faster_machine_does_more_in_less_time() -> None:
    assert at_one(CREATES, 9_000, [2.0, 1.0]) == 6_000
    assert at_one(CPU, 20, [2.0, 1.0]) == 30
    assert at_one(TRANSACTIONS, 0.01, [2.0, 1.0]) == 0.01
    assert at_one(CREATES, 9_000, [None, None]) == 9_000


def test_a_figure_shows_median_spread_bar_and_verdict() -> None:
    page = page_of({"creates": entry(({CREATES: 9_500}, {}), ({CREATES: 10_000}, {}), ({CREATES: 8_000}, {}))})
    assert f"{CREATES} | 9,500 (8,000 to 10,000) | 4,750 | 4,500 | yes | 2,900 |" in page
    assert page.startswith(f"a{BEGIN}| |") and page.endswith(f"{FAILOVER_MARKS[1]}z") and "old" not in page


def test_a_bar_that_is_missed_is_said() -> None:
    late = {LATE_50: 2.0, LATE_99: 40.0}
    page = page_of({"spread-1000": entry((late, {"missing": 0}))})
    assert f"{LATE_50} | 2 | 4 | 3 | as measured yes, at 1.0 no |" in page
    assert f"{LATE_99} | 40 | 80 | 15 | **no** |" in page
    page = page_of({"creates": entry(({CREATES: 4_000}, {}), factors=(0.5, 0.5))})
    assert f"{CREATES} | 4,000 | 8,000 | 4,500 | yes |" in page, "on a machine half as fast"


def test_what_was_not_correct_is_said() -> None:
    late = {LATE_50: 2.0}
    assert "| missing 3 |" in page_of({"spread-1000": entry((late, {"missing": 1}), (late, {"missing": 2}))})
    assert "| 0.3 | yes |" in page_of({"spread-1000": entry((late, {"missing": 0}))})


EVERY = (
    "create: 100 jobs, 5000/s, latency ms p50 1.0 p99 2.0; first due in 1.0 s\n"
    "every: {got} triggers of 1000 expected (100/s), jobs 100 of 100; lateness ms (kth trigger against t0+k s) min {least} p50 2.5 p99 9.0 "
    "max {most}; gap s p50 1.000 p99 1.010 max 1.020; server cpu 0.21 cores, 46 us/trigger, rss 100 MiB\n"
)


@pytest.mark.parametrize(
    ("got", "least", "most", "faults"),
    [
        (1000, 0.2, 12.0, {}),
        (999, 0.2, 12.0, {}),  # due in the last 12 ms
        (990, 0.2, 12.0, {"missing": 8}),
        (1000, -998.0, 12.0, {"early or repeated": 1}),
        (1001, 0.2, 12.0, {}),  # due as it ended
        (1001, -990.0, 12.0, {"early or repeated": 1}),
    ],
)
def test_the_go_clients_lines_become_figures_and_faults(got, least, most, faults) -> None:
    work = Work("every", 100, 10, spread_s=1)
    figures, found = told_by_go(work, EVERY.format(got=got, least=least, most=most))
    assert figures[LATE_50] == 2.5 and figures[CPU] == 46
    assert {name: count for name, count in found.items() if count} == faults


def test_a_storm_is_counted_trigger_by_trigger() -> None:
    line = "storm: 103 of 102 triggers, 101 distinct, first -0.500 s after due, 0.30 s first to last, 60000 triggers/s; server cpu 60 us/trigger, rss 1 MiB"
    assert told_by_go(Work("storm", 102), line)[1] == {"early": 1, "missing": 1, "repeated": 2}


def test_a_run_that_was_too_slow_to_create_is_given_more_time() -> None:
    given = []

    def attempt(work: Work) -> Run:
        given.append(work.creates_per_s)
        if len(given) < 3:
            raise TooSlow
        return Run({}, {}, "")

    assert clients._in_time(Work("storm", 100, creates_per_s=1_000), attempt) == Run({}, {}, "")
    assert given == [1_000, 500, 250]


def test_a_plot_shows_every_point_and_is_the_same_each_time() -> None:
    points = [{"x": x, "figures": {LATE_50: y, LATE_99: 3 * y}, "faults": {}} for x, y in ((1_000, 2.0), (20_000, 4.0))]
    document = {"series": {"load": {"at": "2026-01-01 10:00", "factors": [1.0, 1.0], "points": points}}}
    [(path, text)] = drawn(document).items()
    root = ET.fromstring(text)
    circles = root.findall("{*}circle")
    assert path.name == "load.svg" and len(circles) == 4 and text == drawn(document)[path]
    assert float(circles[0].get("cy")) > float(circles[1].get("cy")) > float(circles[3].get("cy"))
    assert float(circles[0].get("cx")) == 70 and float(circles[1].get("cx")) == 600
    assert "triggers per second (logarithmic)" in text and "plots/load.svg" in page_of(document)


@pytest.mark.e2e
@pytest.mark.etcd
def test_a_row_is_measured_on_real_processes(monkeypatch) -> None:
    monkeypatch.setattr("tests.perf.rows.client_for", lambda mode: OurBench())
    row = next(row for row in ROWS if row.key == "transactions")
    with running(1) as site:
        run = one_run(row._replace(work=Work("every", 300, 5, spread_s=1)), site)
    assert 0 < run.figures[TRANSACTIONS] < 1 and run.figures[CPU] > 0 and not any(run.faults.values()), run


def test_rows_are_chosen_by_pattern() -> None:
    command = [sys.executable, "-m", "tests.perf.measure", "--rows", "nothing-like-this"]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2 and "spread-20000" in ran.stderr
