"""The reference's flags (scheduler-service.md 7.1): each is there, docs/flags.md says what becomes of it, and that is what becomes of it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli import main, reference
from scheduler.config import ConfigError
from tests.support.processes import ROOT, Replica, free_port, wait_until

FLAGS = """
    port listen-address healthz-port healthz-listen-address override-broadcast-host-port id mode kubeconfig tls-enabled trust-domain trust-anchors-file
    sentry-address identity-directory-write workers etcd-embed etcd-initial-cluster etcd-data-dir etcd-client-port etcd-client-listen-address etcd-space-quota
    etcd-compaction-mode etcd-compaction-retention etcd-snapshot-count etcd-max-snapshots etcd-max-wals etcd-backend-batch-limit etcd-backend-batch-interval
    etcd-max-txn-ops etcd-experimental-bootstrap-defrag-threshold-megabytes etcd-initial-election-tick-advance etcd-metrics etcd-client-endpoints
    etcd-client-username etcd-client-password log-level log-as-json log-file enable-metrics metrics-port metrics-listen-address
""".split()  # noqa: SIM905 - forty words are better read as text
PAGE = (ROOT / "docs" / "flags.md").read_text()


def test_every_flag_is_there_and_told_of() -> None:
    text = CliRunner().invoke(main, ["serve", "--help"]).output
    offered = set(re.findall(r"^  --([a-z-]+)", text, re.MULTILINE))
    assert set(FLAGS) <= offered
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| (same|embedded|no effect|refused) \|", PAGE, re.MULTILINE))
    assert list(rows) == FLAGS
    assert {flag for flag, fate in rows.items() if fate == "no effect"} == {flag[2:] for flag in reference.IGNORED}
    assert {flag for flag, fate in rows.items() if fate == "embedded"} == {one.flag[2:] for one in reference._EMBEDDED}


def taken(*, etcd_embed: bool = True, **given) -> tuple[dict, list[str]]:
    names = [one.flag for one in reference._EMBEDDED] + list(reference.IGNORED)
    values = {reference._parameter(flag): None for flag in names}
    values |= {"etcd_initial_cluster": "", "etcd_client_listen_address": "localhost", "etcd_client_password": ""}
    ignored: list[str] = []
    return reference.take({**values, "etcd_embed": etcd_embed, **given}, ignored), ignored


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"etcd_initial_cluster": "a=http://a:2380,b=http://b:2380"}, "--etcd-client-endpoints"),
        ({"etcd_client_listen_address": "0.0.0.0"}, "loopback"),
        ({"etcd_client_password": "x"}, "cannot use --etcd-client-password with --etcd-embed"),
        ({"etcd_client_password": "x", "etcd_embed": False}, "--etcd-client-password-file"),
    ],
)
def test_what_would_be_silently_wrong_is_refused_with_a_hint(given: dict, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        taken(**given)


def test_flags_for_an_embedded_etcd_without_one_are_without_effect() -> None:
    values, ignored = taken(etcd_embed=False, etcd_snapshot_count=5, workers="128")
    assert ("etcd_arguments" in values, ignored) == (False, ["--workers", "--etcd-snapshot-count"])
    assert "runs apart" in reference.reason("--etcd-snapshot-count")


def test_compaction_has_the_references_other_half() -> None:
    assert taken(etcd_compaction_mode="periodic", etcd_compaction_retention="1h")[0]["etcd_arguments"] == (
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1h",
    )
    assert taken(etcd_compaction_retention="5000")[0]["etcd_arguments"] == (
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=5000",
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--etcd-space-quota=lots"], "no quantity"),
        (["--etcd-backend-batch-interval=100"], "missing unit"),
        (["--etcd-metrics=some"], "basic"),
        (["--log-file=/nonexistent/x"], "--log-file"),
        (["--kubeconfig=x"], "kubeconfig flag is only valid in --mode=kubernetes"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(arguments: list[str], text: str) -> None:
    command = [sys.executable, "-m", "scheduler", "serve", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert text in done.stderr


@pytest.mark.e2e
def test_the_references_command_line_starts_a_replica_with_its_etcd(tmp_path: Path) -> None:
    """As the reference's own tests start theirs (section 9): the flags arrive at etcd, what has no effect is said, the log is in its file."""
    log = tmp_path / "scheduler.log"
    replica = Replica(
        "dapr-scheduler-server-0", tmp_path, "", "--etcd-embed=true", "--etcd-client-endpoints=", f"--etcd-client-port={free_port()}",
        f"--etcd-initial-cluster=dapr-scheduler-server-0=http://localhost:{free_port()}", "--etcd-backend-batch-interval=50ms", "--etcd-space-quota=9.2E",
        "--etcd-compaction-retention=1000000", "--etcd-max-snapshots=10", "--etcd-initial-election-tick-advance=false", "--etcd-metrics=basic",
        "--workers=128",
        "--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1", f"--identity-directory-write={tmp_path}", "--log-level=info", f"--log-file={log}",
    )  # fmt: skip
    try:
        replica.start().wait_healthy()
        text = log.read_text()
        assert re.search(r"flag_without_effect flag=--workers", text)
        assert re.search(r"flag_without_effect flag=--identity-directory-write", text)
        pid = re.search(r"etcd_started.* pid=(\d+)", text)
        command = Path(f"/proc/{pid.group(1)}/cmdline").read_bytes().decode().split("\0")
        assert set(command) >= {
            "--quota-backend-bytes=9200000000000000000", "--auto-compaction-mode=revision", "--auto-compaction-retention=1000000", "--max-snapshots=10",
            "--backend-batch-interval=50ms", "--initial-election-tick-advance=false", "--metrics=basic",
        }  # fmt: skip
        log.rename(tmp_path / "rotated.log")
        replica.process.send_signal(signal.SIGINT)
        assert replica.process.wait(15) == 0
        wait_until(log.exists, timeout_s=30, what="the log is made anew")
        assert "stopped" in log.read_text()
    finally:
        replica.close()
