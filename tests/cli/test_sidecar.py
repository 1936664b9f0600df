"""`scheduler sidecar` as a process: flags and their refusals, and `run`, which starts the app too."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli import main
from scheduler.cli.options import DURATION, SIZE
from scheduler.cli.sidecar import addresses
from tests.support.processes import ROOT, Sidecar, free_port, wait_until
from tests.support.sidecars import http_call

SIDECAR = [sys.executable, "-m", "scheduler", "sidecar"]
# Says what it was told and that it was asked to stop; its exit code and its stubbornness are arguments.
APP = """
import json, os, signal, sys, time
told = {key: os.environ[key] for key in os.environ if key.startswith(("APP_", "DAPR_"))}
def stop(*_):
    print("stopping", flush=True)
    if sys.argv[1] != "stubborn":
        sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGTERM, stop)
print(json.dumps({"pid": os.getpid(), **told}), flush=True)
while sys.argv[2:] != ["now"]:
    time.sleep(0.05)
sys.exit(int(sys.argv[1]))
"""


def run(*arguments: str, before: tuple[str, ...] = (), app: list[str]) -> subprocess.Popen[str]:
    command = [
        *SIDECAR,
        *before,
        "run",
        "--dapr-http-port=0",
        "--dapr-grpc-port=0",
        "--scheduler-host-address=",
        *arguments,
        "--",
    ]
    command += [sys.executable, "-c", APP, *app]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_run_tells_the_app_where_the_sidecar_is_and_ends_with_its_code() -> None:
    port = free_port()
    # Flags may stand before `run` too, with one dash or two.
    # Nothing is waited for once the app is gone.
    block = "--dapr-block-shutdown-duration=60s"
    process = run("-app-port", str(port), block, before=("--app-id=backup",), app=["7", "now"])
    found = told(process)
    process.communicate(timeout=60)
    assert process.returncode == 7
    assert (found["APP_ID"], found["APP_PORT"]) == ("backup", str(port))
    assert {"DAPR_HTTP_PORT", "DAPR_GRPC_PORT", "DAPR_METRICS_PORT"} <= set(found)
    assert len({found["DAPR_HTTP_PORT"], found["DAPR_GRPC_PORT"], "0"}) == 3


def test_run_opens_the_api_before_it_starts_the_app_and_stops_both() -> None:
    process = run("--app-id=backup", app=["0"])
    found = told(process)
    assert http_call(int(found["DAPR_HTTP_PORT"]), "GET", "/v1.0/healthz/outbound").status == 204
    assert b"dapr_component_job_success_count" in http_call(int(found["DAPR_METRICS_PORT"]), "GET", "/").body
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.strip()) == (0, "stopping")
    assert not alive(int(found["pid"]))


def test_an_app_that_stops_with_a_failure_says_so() -> None:
    process = run("--app-id=backup", "--dapr-block-shutdown-duration=1s", app=["3"])
    found = told(process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert http_call(int(found["DAPR_HTTP_PORT"]), "GET", "/v1.0/healthz/outbound").status == 204
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert time.monotonic() - began >= 1, "the API goes on for as long as was asked for"


def test_an_app_that_will_not_stop_is_killed_in_time() -> None:
    process = run("--app-id=backup", "--dapr-graceful-shutdown-seconds=1", app=["stubborn"])
    found = told(process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert 0.9 < time.monotonic() - began < 30
    assert not alive(int(found["pid"]))


def test_an_app_that_dies_of_a_signal_is_told_as_a_shell_does() -> None:
    process = run("--app-id=backup", app=["0"])
    os.kill(int(told(process)["pid"]), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL


def test_the_app_does_not_outlive_a_sidecar_that_is_killed() -> None:
    process = run("--app-id=backup", app=["0"])
    found = told(process)
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not alive(int(found["pid"])), timeout_s=30, what="the app has ended")


def test_a_command_that_is_not_there() -> None:
    command = [*SIDECAR, "run", "--app-id=x", "--dapr-http-port=0", "--dapr-grpc-port=0", "--", "no-such-command-here"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "no-such-command-here" in done.stderr.splitlines()[-1]


def test_shutdown_by_force_and_in_order(tmp_path: Path) -> None:
    for headers, code in (({"dapr-force-shutdown": "true"}, 1), ({}, 0)):
        sidecar = Sidecar(tmp_path / str(code), [], "--app-id=x", "--dapr-block-shutdown-duration=0s").start()
        assert http_call(sidecar.http_port, "POST", "/v1.0/shutdown", headers=headers).status == 204
        assert sidecar.process is not None
        assert sidecar.process.wait(10) == code


def test_wait_returns_once_a_sidecar_is_up(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path, [], "--app-id=x")
    waiting = subprocess.Popen([*SIDECAR, "--wait", f"--dapr-http-port={sidecar.http_port}"], cwd=ROOT)
    try:
        assert waiting.poll() is None
        sidecar.start()
        assert waiting.wait(20) == 0
    finally:
        waiting.kill()
        sidecar.close()


def test_two_sidecars_share_a_machine_unless_a_metrics_port_is_asked_for(tmp_path: Path) -> None:
    port = free_port()
    first = Sidecar(tmp_path / "1", [], "--app-id=a", f"--metrics-port={port}").start()
    second = Sidecar(tmp_path / "2", [], "--app-id=b", f"--metrics-port={port}")
    try:
        # Its other ports are open for a moment before this one is refused: then starting looks like a success.
        with suppress(AssertionError):
            second.start()
        assert second.process is not None and second.process.wait(20) == 1
        assert "address already in use" in second.tail().lower()
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("spelling", ["", "''", '""', '" "', "' '", " ", ",", '"",""'])
def test_scheduler_emptyaddress(spelling: str) -> None:
    """The reference's test of eight spellings of "no address"."""
    assert addresses((spelling,)) == ()


def test_addresses() -> None:
    assert addresses(("a:1,b:2", " c ")) == ("a:1", "b:2", "c:50006")
    assert addresses(('"localhost:50006"',)) == ("localhost:50006",)


def test_sizes_and_durations() -> None:
    assert [SIZE(text) for text in ("0", "512", "4Ki", "4Mi", "1Gi", "2k", "3M")] == [
        0,
        512,
        4096,
        4 << 20,
        1 << 30,
        2000,
        3_000_000,
    ]
    assert [DURATION(text) for text in ("0s", "1.5s", "2m")] == [0, 1.5, 120]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--app-id"),
        (["--app-id=a.b"], "dot"),
        (["--app-id=x", "--app-port=3500"], "the sidecar's own port"),
        (["--app-id=x", "--app-port=0"], "1 to 65535"),
        (["--app-id=x", "--app-protocol=smtp"], "h2c"),
        (["--app-id=x", "--scheduler-job-streams=0"], "at least 1"),
        (["--app-id=x", "--scheduler-host-address=a:b"], "--scheduler-host-address: address 'a:b'"),
        (["--app-id=x", "--max-body-size=4X"], "'4X' is no size"),
        (["--app-id=x", "--dapr-block-shutdown-duration=soon"], "no duration"),
        (["--app-id=x", "--app-health-probe-timeout=6000"], "probe interval"),
        (["--app-id=x", "--app-health-threshold=0"], "at least 1"),
        (["--app-id=x", "--dapr-http-port=50001"], "both 50001"),
        (["--app-id=x", "--dapr-listen-addresses=0.0.0.0"], "--allow-insecure"),
        (["run", "--app-id=x"], "COMMAND"),
    ],
)
def test_what_cannot_be_is_told(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(main, ["sidecar", *arguments])
    assert result.exit_code in {1, 2}
    assert text in result.output
