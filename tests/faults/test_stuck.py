"""A replica that loses its wake-up is found out: it says so, gives its partitions up, and the others go on with its jobs."""

import time

import pytest

from tests.checker.judge import Bounds
from tests.faults.run import running
from tests.support.processes import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.etcd, pytest.mark.slow]
# Ready for 5 s, owner for 15 s, and what the next owner takes to load.
FOUND_OUT_S = 18.0


def test_a_replica_that_does_not_move_gives_its_partitions_up(tmp_path) -> None:
    stall = tmp_path / "stall"
    with running(tmp_path / "run", seed=1, seconds=20, members=1, replicas=2) as run:
        victim = run.cluster.replicas[1]
        with run.fault("restart", victim.name, 1.0):
            victim.terminate()
            victim.start("tests.faults.launcher", SCHEDULER_TEST_STALL=str(stall))
            run.cluster.settle()
        run.wait_streams()
        with run.fault("stall", victim.name, 2.0):
            stall.touch()
            began = time.monotonic()
            wait_until(lambda: victim.answer("/readyz")[0] == 503, timeout_s=12, what="it says that it is not ready")
            assert "nothing that is due has left" in victim.answer("/readyz")[1]
            assert victim.answer("/livez")[0] == 200
            assert victim.metric("scheduler_engine_stuck_seconds") >= 5
            assert victim.metric("scheduler_oldest_due_seconds") >= 5
            wait_until(lambda: victim.name not in run.cluster.loads(), timeout_s=15, what="it gives its partitions up")
            assert time.monotonic() - began < FOUND_OUT_S
            assert victim.answer("/livez")[0] == 503
            wait_until(lambda: len(run.cluster.owners()) == 128, timeout_s=5, what="the other one takes them")
        assert victim.alive, "whoever restarts it may look at it first"
        # Restarted, it serves again.
        assert victim.terminate() == 0
        victim.start()
        run.cluster.settle()
        run.bounds = Bounds(targets_min=100)
        report = run.finish(tail_s=2)
        assert not report.problems, report.problems
        assert report.figures()["L"] <= FOUND_OUT_S
