"""`scheduler dev`: the main job on the embedded default, stopped by Ctrl-C, leaving nothing behind."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import ROOT, wait_until

pytestmark = pytest.mark.e2e


def children_of(pid: int) -> set[int]:
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout.splitlines()[
        1:
    ]
    parents = {int(line.split()[0]): int(line.split()[1]) for line in listing}
    return {child for child, parent in parents.items() if parent == pid}


def test_the_main_job_runs_and_ctrl_c_stops_everything(tmp_path) -> None:
    log = (tmp_path / "dev.log").open("wb")
    dev = subprocess.Popen(
        [sys.executable, "-m", "scheduler", "dev"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        text = (tmp_path / "dev.log").read_text
        wait_until(lambda: text().count("POST /job/prod-db-backup") >= 3, timeout_s=60, what="three triggers")
        line = next(line for line in text().splitlines() if "POST /job/prod-db-backup" in line)
        assert re.search(r"\d+\.\d ms late  fired by replica-\d  data .*my-prod-db", line), line
        started = children_of(dev.pid)
        assert len(started) >= 6, "etcd, three replicas, a sidecar, an app"
        dev.send_signal(signal.SIGINT)
        asked = time.monotonic()
        assert dev.wait(60) == 0
        assert time.monotonic() - asked < 45
        stopped = re.findall(r"dev: stopped (\S+)", text())
        assert stopped == ["app", "sidecar", "replica-2", "replica-1", "replica-0", "etcd"]
        assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    finally:
        dev.kill()
        dev.wait()
        log.close()
