"""`scheduler job verify` and `scheduler certificate`: what `helm test` runs, against real replicas."""

import subprocess
import sys

import pytest

from scheduler.cli.output import Exit
from tests.support.certificates import Authority
from tests.support.processes import ROOT, free_port

pytestmark = pytest.mark.e2e


def run(*arguments: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "scheduler", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout + result.stderr


def test_a_job_is_scheduled_seen_to_fire_and_gone(cluster) -> None:
    three = cluster(3)
    address = f"--address={three.addresses[1]}"
    for _ in range(4):
        code, output = run("job", "verify", "--app-id=verify", address)
        assert code == 0 and "3 replicas: " in output and "fired on 127.0.0.1:" in output
    code, output = run("job", "list", "--app-id=verify", address, "-o", "json")
    assert (code, output) == (0, "[]\n")


def test_a_cluster_that_is_not_there_is_explained() -> None:
    port = free_port()
    code, output = run("job", "verify", "--app-id=verify", f"--address=127.0.0.1:{port}", "--timeout=5")
    assert code == Exit.UNREACHABLE and f"127.0.0.1:{port}" in output and "--address" in output


def test_with_mutual_tls_by_a_certificate_that_we_issued(cluster, tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.leaf("server", ["spiffe://localhost/ns/default/dapr-scheduler"])
    ca_key = tmp_path / "ca.key"
    ca_key.write_bytes(authority.key_pem())
    one = cluster(
        1,
        f"--tls-cert-file={certificate}",
        f"--tls-key-file={key}",
        f"--tls-ca-file={authority.ca_file}",
        settle_hosts=False,
    )
    mine = tmp_path / "mine"
    issue = ["certificate", f"--ca-file={authority.ca_file}", "--app-id=verify", "--namespace=shop", f"--out={mine}"]
    code, output = run(*issue, f"--ca-key-file={ca_key}")
    assert code == 0, output
    assert (mine / "tls.key").stat().st_mode & 0o077 == 0
    tls = [
        f"--tls-ca-file={mine / 'ca.crt'}",
        f"--tls-cert-file={mine / 'tls.crt'}",
        f"--tls-key-file={mine / 'tls.key'}",
        "--tls-server-name=localhost",
    ]
    code, output = run("job", "verify", "--app-id=verify", "--namespace=shop", f"--address={one.addresses[0]}", *tls)
    assert code == 0 and "1 replicas: " in output, output
    code, output = run("job", "list", "--app-id=other", "--namespace=shop", f"--address={one.addresses[0]}", *tls)
    assert code == Exit.DENIED and "PERMISSION_DENIED" in output
    code, output = run(*issue, f"--ca-key-file={key}")
    assert code == 1 and "is not the key of" in output
