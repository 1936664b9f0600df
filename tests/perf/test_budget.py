"""The ratchet: nothing may come to cost more per create, per trigger or per idle job; and the test of that test."""

import asyncio
import os

import pytest

from scheduler.etcd.api import Range
from tests.perf.budget import FILE, PRODUCT, PYTHON, budget, exceeded, measure_idle, measure_paths


@pytest.fixture(scope="module")
def allowed() -> dict[str, float]:
    found = budget()
    if found is None:
        reason = f"{FILE.name} has no figures for Python {PYTHON}: scripts/budget --accept makes them"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def test_no_path_costs_more_than_its_budget(allowed) -> None:
    assert exceeded(measure_paths(), allowed) == []


def test_an_idle_job_is_no_larger_than_its_budget(allowed) -> None:
    measured = measure_idle()
    assert exceeded(measured, allowed) == []
    assert all(value <= 600 for value in measured.values())


def test_one_more_call_per_trigger_is_noticed(allowed) -> None:
    names: dict = {}
    text = "def wrap(send):\n    return lambda stream, job, now_ns: send(stream, job, now_ns)\n"
    exec(compile(text, f"{PRODUCT}delivery/hub.py", "exec"), names)

    def tamper(replica) -> None:
        replica.hub._send = names["wrap"](replica.hub._send)

    found = exceeded(measure_paths(tamper), allowed)
    assert len([line for line in found if "Python functions" in line and "create" not in line]) == 2, found


def test_one_more_request_to_etcd_per_trigger_is_noticed(allowed) -> None:
    def tamper(replica) -> None:
        settle, tasks = replica.hub._settle, set()

        def wasteful(job, succeeded) -> None:
            task = asyncio.get_running_loop().create_task(replica.etcd.range(Range(job.key)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            settle(job, succeeded)

        replica.hub._settle = wasteful

    found = exceeded(measure_paths(tamper), allowed)
    assert len([line for line in found if "requests to etcd" in line and "create" not in line]) == 2, found
