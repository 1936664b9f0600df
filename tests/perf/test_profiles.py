"""`scripts/profile`: one path as it is run, and how the others are cut out of what the process does."""

import re

import pytest

from tests.perf import fair, profiles
from tests.perf.clients import Work
from tests.support.processes import ROOT


@pytest.mark.e2e
@pytest.mark.etcd
def test_a_path_is_driven_and_its_functions_are_told() -> None:
    told = "\n".join(profiles.profile("create", Work("create", 300, concurrency=32)))
    assert told.startswith("create: ") and "us of etcd for each create" in told
    assert "store/codec.py" in told or "http2/connection.py" in told or "rpc/jobs.py" in told, told


@pytest.mark.e2e
@pytest.mark.etcd
def test_what_holds_the_loop_is_told_beside_what_a_quiet_app_has_of_a_storm() -> None:
    told = "\n".join(fair.measured("-n", "300"))
    assert re.search(r"^while [\d,]+ jobs are created:$", told, re.MULTILINE), told
    assert len(re.findall(r"^turns +\d+\.\d ms ( +\d+){3} +\d+\.\d ms ( +\d+){3}$", told, re.MULTILINE)) == 2, told
    assert re.search(r"^lateness( +\d+\.\d / +\d+\.\d){3}$", told, re.MULTILINE) and "faults: 0" in told, told


def test_a_path_is_what_its_roots_lead_to_and_shared_functions_are_divided_by_their_callers() -> None:
    root, other, shared, below = (
        ("x/a.py", 1, "root"),
        ("x/b.py", 1, "other"),
        ("~", 0, "shared"),
        ("x/c.py", 1, "below"),
    )
    functions = {
        root: (2, 2, 0.5, 1.0, {}),
        other: (9, 9, 0.9, 2.0, {}),
        shared: (10, 10, 1.0, 1.0, {root: (4, 4, 0.3, 0.3), other: (6, 6, 0.7, 0.7)}),
        below: (1, 1, 0.1, 0.1, {shared: (1, 1, 0.1, 0.1)}),
    }
    found = profiles.cut(functions, ("a.py:root",))
    assert {function: pytest.approx(told) for function, told in found.items()} == {
        root: (2, 0.5), shared: (4, 0.4), below: (0.4, 0.04),
    }  # fmt: skip


def test_every_path_of_the_page_has_its_command() -> None:
    page = (ROOT / "docs/profiles.md").read_text()
    for key in (*profiles.WAYS, profiles.LOAD):
        assert f"`scripts/profile {key}`" in page
