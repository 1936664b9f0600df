"""The part of the faults that fits into CI: real processes, disturbed and judged. The rest: `python -m tests.faults --all`."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.faults.__main__ import SCENARIOS, play
from tests.faults.machine import MissingTool, require
from tests.support.processes import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.etcd, pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """In CI what is missing is installed, or the tests fail; elsewhere they fail with the name of what is missing."""
    if os.environ.get("CI") == "true":
        subprocess.run([ROOT / "scripts/faults-setup"], check=True)


def check(names: list[str], directory: Path) -> list[dict[str, Any]]:
    rows = play(names, directory, seed=1, short=True)
    assert rows
    assert {row["verdict"] for row in rows} == {"pass"}, [row["problems"] for row in rows]
    return rows


def test_crashes_pauses_cuts_and_silent_clients_lose_nothing(tmp_path) -> None:
    check(["F1", "F2", "F3", "F25", "F31", "F34", "F13"], tmp_path / "run")


def test_a_full_etcd_stops_firing_and_all_resumes_by_itself(tmp_path) -> None:
    check(["F18"], tmp_path / "run")


def test_a_crash_at_any_step_loses_nothing(tmp_path) -> None:
    check(["F7"], tmp_path / "run")


def test_clocks_that_jump_lose_and_double_nothing(tmp_path) -> None:
    check(["F40"], tmp_path / "run")


def test_every_fault_of_the_core_set_has_its_scenario() -> None:
    core = ["F1", "F2", "F3", "F7", "F12", "F13", "F14", "F18", "F19", "F22", "F25", "F31", "F34", "F40", "F46"]
    assert sorted(SCENARIOS) == sorted(core)


def test_a_machine_that_lacks_a_tool_fails_the_scenario() -> None:
    with pytest.raises(MissingTool, match=r"no-such-tool.*scripts/faults-setup"):
        require("no-such-tool")
