"""The checker checked: hand-written histories with known verdicts, a clean run, and mutations of it that each give exactly one verdict."""

import json
import random
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.checker import oracle, synthetic
from tests.checker.history import read, write
from tests.checker.judge import Bounds, judge
from tests.support.processes import ROOT

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.jsonl"))
S = 1_000_000_000


def test_the_clean_run_is_clean() -> None:
    report = judge(synthetic.clean())
    assert not report.problems
    assert report.targets > 100
    figures = report.figures()
    assert (figures["D"], figures["ownership_changes"]) == (0, 1)
    assert figures["L_unmoved"] < 0.01 < 1 < figures["L"] < 6
    assert report.figures(end_wall=synthetic.START + synthetic.CRASH)["L"] < 0.01


@pytest.mark.parametrize("mutation", synthetic.MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_mutation_gives_exactly_one_verdict(mutation) -> None:
    for seed in range(20):
        records = synthetic.clean()
        expected = mutation(records, random.Random(seed))
        report = judge(records)
        assert report.verdicts == {expected: 1}, f"seed {seed}: {report.problems}"


@pytest.mark.parametrize("case", CORPUS, ids=lambda path: path.stem)
def test_a_hand_written_history_gets_its_verdict(case) -> None:
    """The file's first line, a remark, names the verdicts that are due."""
    expected = json.loads(case.read_text().splitlines()[0].removeprefix("#"))
    report = judge(list(read([case])), Bounds(**expected.get("bounds", {})))
    assert report.verdicts == expected["verdicts"], report.problems
    assert len(report.extras) == expected.get("D", 0)


def test_the_corpus_has_good_and_bad_histories() -> None:
    expected = [json.loads(case.read_text().splitlines()[0].removeprefix("#"))["verdicts"] for case in CORPUS]
    assert sum(not verdicts for verdicts in expected) >= 4
    assert sum(bool(verdicts) for verdicts in expected) >= 8


def test_too_little_is_no_proof() -> None:
    for bounds in (Bounds(targets_min=10_000), Bounds(faults_min=2), Bounds(ownership_changes_min=2)):
        assert judge(synthetic.clean(), bounds).verdicts == {"vacuous": 1}
    assert judge([]).verdicts == {"vacuous": 1}


def test_saved_runs_are_judged_again_by_a_command(tmp_path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for directory in (good, bad):
        directory.mkdir()
        records = synthetic.clean()
        if directory == bad:
            synthetic.drop(records, random.Random(1))
        write(directory / "history.jsonl", [one for one in records if "rev" not in one])
        write(directory / "etcd.jsonl", [one for one in records if "rev" in one])
    (good / "bounds.json").write_text('{"ownership_changes_min": 1}')
    command = [sys.executable, "-m", "tests.checker"]
    passed = subprocess.run([*command, str(good)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    failed = subprocess.run([*command, str(good), str(bad)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert '"lost": 1' in failed.stdout


def test_the_oracle_reads_cron_second_by_second() -> None:
    at = int(datetime(2026, 3, 29, 1, 59, 58, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()) * S
    assert oracle.Cron("TZ=Europe/Berlin 0 0 3 * * *").after(at) == at + 2 * S  # two o'clock does not happen that day
    assert oracle.Cron("*/5 * * * * *").after(at) == at + 2 * S
    assert oracle.Cron("*/5 * * * * *").after(at + 2 * S) == at + 7 * S
    assert oracle.Cron("0,30 0-4 * * 3 *").matches(
        int(datetime(2026, 3, 1, 7, 4, 30, tzinfo=ZoneInfo("UTC")).timestamp())
    )
    assert oracle.Cron("0 0 0 13 * 5").matches(int(datetime(2026, 3, 6, tzinfo=ZoneInfo("UTC")).timestamp()))
    with pytest.raises(ValueError, match="does not read"):
        oracle.Cron("* * *")


def test_the_oracle_adds_and_counts() -> None:
    every = {"schedule": "@every 1m30s", "repeats": 3}
    assert list(oracle.occurrences(every, 10 * S, None, 10_000 * S)) == [10 * S, 100 * S, 190 * S]
    short = {"schedule": "@every 2s", "ttl": "4s"}
    assert oracle.first_between(short, 0, S) == (2 * S, 3 * S)
    assert oracle.expires_between(short, 2 * S, 0, S) == (4 * S, 5 * S)
    assert list(oracle.occurrences(short, 2 * S, 4 * S, 10_000 * S)) == [2 * S, 4 * S]
    assert list(oracle.occurrences({"due_time": "1s"}, S, None, 5 * S)) == [S]
    assert oracle.point_ns("2026-01-01T00:00:00.250Z", 0) % S == S // 4
