"""`scheduler bench`: what it counts, and that it finds faults; the whole command on a real replica."""

import json
import subprocess
import sys
from importlib import import_module

import pytest
import yaml

from scheduler.bench.load import Due
from scheduler.bench.report import Result, document, histogram, quantiles, table
from scheduler.cli.output import Exit
from tests.support.client import Client, job_metadata
from tests.support.processes import ROOT

S = 1_000_000_000


def test_a_one_shot_may_come_once_and_not_before_its_time() -> None:
    due = Due([10 * S, 10 * S, 10 * S], 0)
    due.came(0, 10 * S + 2_000_000)
    due.came(0, 11 * S)
    due.came(1, 9 * S)
    assert (due.early, list(due.late_s)) == (2, [0.002])
    assert due.missing(20 * S) == 1
    assert due.missing(10 * S) == 0


def test_a_recurring_job_must_come_each_period() -> None:
    due = Due([10 * S, 10 * S + S // 2], S)
    for second in (10, 11, 12):
        due.came(0, second * S + 1_000)
    due.came(0, 12 * S + 2_000)  # a repeated trigger stands in the place of the next
    due.came(1, 10 * S + S // 2)
    assert due.early == 1 and due.missing(13 * S) == 2


def test_figures() -> None:
    seconds = [number / 1000 for number in range(1, 101)]
    assert quantiles("x", seconds) == {
        "x p50 (ms)": pytest.approx(51, abs=1),
        "x p90 (ms)": pytest.approx(90, abs=1),
        "x p99 (ms)": pytest.approx(99, abs=1),
        "x max (ms)": 100,
    }
    counts = histogram(seconds)
    assert sum(count for _, count in counts) == 100 and counts[0] == (1, 1) and counts[-1] == (float("inf"), 0)


def test_a_run_with_a_fault_is_not_correct() -> None:
    result = Result(mode="every", parameters={"jobs": 1}, figures={"x (ms)": 3.0}, faults={"missing": 1})
    assert not result.correct
    earlier = {"results": [{"mode": "every", "parameters": {"jobs": 1}, "figures": {"x (ms)": 2.0}}]}
    lines = "\n".join(table([result], earlier))
    assert "NOT CORRECT: missing 1" in lines and "1.50 x 2.00" in lines
    assert document([result], [], "now", earlier)["results"][0]["ratios"] == {"x (ms)": 1.5}
    assert document([result], [], "now", {"results": []})["results"][0]["ratios"] == {}
    assert "ratios" not in document([result], [], "now")["results"][0]


def test_progress_is_a_plain_line_each_ten_seconds_where_nobody_watches(capsys) -> None:
    now = [100.0]
    say = import_module("scheduler.cli.bench")._progress(lambda: now[0])
    for text in ("a", "b", "", "c", "d"):
        say(text)
        now[0] += 6
    assert capsys.readouterr().err == "c\n"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scheduler", "bench", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.e2e
@pytest.mark.etcd
def test_it_measures_a_replica_and_cleans_up(cluster, tmp_path) -> None:
    replica = cluster(1).replicas[0]
    common = ["--address", replica.address, "--pids", str(replica.pid), "-n", "100", "--seconds", "3"]
    ran = bench("create", "storm", "every", "idle", "mixed", "fair", *common, "--creates-per-s", "50", "-o", "json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    earlier = tmp_path / "earlier.json"
    earlier.write_text(ran.stdout)
    results = {one["mode"]: one for one in json.loads(ran.stdout)["results"]}
    assert set(results) == {"create", "storm", "every", "idle", "mixed", "fair"}
    assert all(not any(one["faults"].values()) for one in results.values())
    assert sum(count for _, count in results["storm"]["lateness_ms"]) == 100
    assert sum(count for _, count in results["every"]["lateness_ms"]) >= 100
    assert results["mixed"]["figures"]["list p50 (ms)"] > 0
    for window in ("before", "meanwhile", "after"):
        assert results["fair"]["figures"][f"lateness {window} p50 (ms)"] > 0
    assert results["fair"]["faults"]["the storm's missing"] == 0
    client = Client(replica.address)
    assert client.list(job_metadata("bench")) == client.list(job_metadata("bench-storm")) == []
    client.close()
    ran = bench("create", *common, "-o", "yaml")
    assert ran.returncode == 0 and yaml.safe_load(ran.stdout)["results"][0]["mode"] == "create"
    again = bench("create", *common, "--against", str(earlier))
    assert again.returncode == 0 and " x " in again.stdout, again.stdout + again.stderr


@pytest.mark.e2e
def test_a_server_that_is_not_there_is_named() -> None:
    ran = bench("create", "--address", "127.0.0.1:1")
    assert ran.returncode == Exit.UNREACHABLE and "127.0.0.1:1" in ran.stderr and "Traceback" not in ran.stderr
    ran = bench("create", "--pids", "x")
    assert ran.returncode == 1 and "--pids" in ran.stderr
