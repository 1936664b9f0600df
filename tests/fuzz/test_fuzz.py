"""A short, fixed part of `scripts/fuzz`: the process lives, its memory is bounded, its log is clean, and a bystander is on time."""

from pathlib import Path

import pytest

from tests.fuzz.inputs import OPERATORS
from tests.fuzz.run import fuzz


@pytest.mark.e2e
@pytest.mark.alone
def test_nonsense_is_contained(tmp_path: Path) -> None:
    report = fuzz(seed=1, seconds=20, directory=tmp_path)
    print(report)
    assert not report.problems, str(report)
    assert sum(report.calls.values()) > 1_000
    assert set(report.calls) == OPERATORS | {
        "ScheduleJob", "GetJob", "DeleteJob", "ListJobs", "DeleteByMetadata", "DeleteByNamePrefix", "WatchHosts", "WatchJobs"
    }  # fmt: skip
    assert report.bystander_triggers >= 18
