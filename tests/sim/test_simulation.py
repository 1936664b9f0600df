"""Seeds: every promise holds under random faults and after healing, and equal seeds are equal runs."""

import os
import subprocess
import sys

import pytest

from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from tests.sim.checker import Checker, Version
from tests.support.processes import ROOT

SEEDS_TWICE = 20
# Elsewhere a tenth says as much as a developer has time for.
SEEDS = 3_000 if os.environ.get("CI") == "true" else 300


@pytest.mark.slow
@pytest.mark.alone
def test_every_promise_holds_under_random_faults(capfd) -> None:
    with capfd.disabled():
        done = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seeds", str(SEEDS), "--processes", "2"], cwd=ROOT, check=False
        )
    assert done.returncode == 0, "the failing seeds are named above"


def test_equal_seeds_are_equal_runs() -> None:
    """In another process, whose sets of strings have another order."""
    command = [sys.executable, "-m", "tests.sim", "--hashes", "--seeds", str(SEEDS_TWICE)]
    runs = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": salt}, stdout=subprocess.PIPE)
        for salt in ("1", "2")
    ]
    first, second = [run.communicate(timeout=300)[0].split(b"\n") for run in runs]
    assert first == second
    assert len({line.split()[1] for line in first if line}) == SEEDS_TWICE


def test_what_one_disturbance_may_cost_is_counted() -> None:
    def cost(charges: list[int]) -> str:
        checker = Checker(now=lambda: 0.0, log=lambda *_: None, ttl_s=5, margin_s=1)
        for generation in charges:
            record = JobRecord(generation=generation)
            checker._charge(("owner", 1, 2.0), Version(b"k", 0, record, 0.0), most=2)
        return str(checker.violation or "")

    assert not cost([1, 2])
    assert "repeats it twice" in cost([1, 2, 1])
    assert "more than 2 jobs" in cost([1, 2, 3])
