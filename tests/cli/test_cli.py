"""The command line as a new user meets it: help, and the errors that a new user will make."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from scheduler.cli import main
from scheduler.cli.output import Exit
from tests.support.processes import ROOT, free_port

VALUE = "type.googleapis.com/google.protobuf.Value"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["sidecar"],
        ["dev"],
        ["job"],
        ["job", "schedule"],
        ["job", "list"],
        ["job", "export"],
        ["job", "import"],
        ["job", "delete-all"],
        ["schedule", "explain"],
        ["config"],
        ["config", "check"],
        ["config", "show"],
        ["config", "schema"],
        ["completion"],
        ["job", "run-now"],
        ["job", "verify"],
        ["cluster"],
        ["cluster", "status"],
        ["cluster", "members"],
        ["cluster", "partitions"],
        ["cluster", "drain"],
        ["doctor"],
        ["top"],
        ["bench"],
        ["certificate"],
        ["version"],
    ],
)
def test_every_command_explains_itself(command: list[str]) -> None:
    code, text = run(*command, "--help")
    assert code == 0 and "Usage:" in text and len(text) > 100


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--etcd-embed=true", "--etcd-client-endpoints=http://e:2379"],
            "cannot use --etcd-client-endpoints with --etcd-embed",
        ),
        (["--etcd-embed=true", "--etcd-client-username=u"], "cannot use --etcd-client-username with --etcd-embed"),
        (["--etcd-embed=true", "--etcd-client-password-file=f"], "cannot use --etcd-client-password with --etcd-embed"),
        (["--etcd-embed=false"], "must specify --etcd-client-endpoints when not using embedded etcd"),
        (["--listen-address=0.0.0.0"], "--allow-insecure"),
        (["--partitions=0"], "--partitions is 0, allowed are 1 to 65536"),
        (["--lease-ttl=1"], "--lease-ttl is 1 s, allowed are 2 to 300"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(arguments: list[str], text: str) -> None:
    code, output = run("serve", *arguments)
    assert code == 1 and text in output


def test_a_wrong_port_is_explained() -> None:
    port = free_port()
    code, output = run("job", "list", "--app-id=a", f"--address=127.0.0.1:{port}")
    assert code == Exit.UNREACHABLE and f"127.0.0.1:{port}" in output and "--address" in output


def test_jobs_from_the_command_line(cluster) -> None:
    address = f"--address={cluster(1).addresses[0]}"
    assert run("job", "schedule", "nightly", "--app-id=a", address, "--schedule=0 0 3 * * *", '--data={"x": 1}') == (
        0,
        "scheduled nightly\n",
    )
    code, output = run("job", "schedule", "bad", "--app-id=a", address, "--schedule=whenever")
    assert code == 1 and "expected exactly 6 fields" in output
    code, output = run("job", "list", "--app-id=a", address)
    assert code == 0 and "nightly" in output and "0 0 3 * * *" in output
    code, output = run("job", "get", "nightly", "--app-id=a", address)
    assert code == 0 and re.search(r"^schedule +0 0 3 \* \* \*$", output, re.MULTILINE)
    code, output = run("job", "get", "nightly", "--app-id=a", address, "-o", "json")
    assert code == 0 and json.loads(output)["data"] == {"@type": VALUE, "value": {"x": 1}}
    code, listed = run("job", "list", "--app-id=a", address, "-o", "yaml")
    assert code == 0 and yaml.safe_load(listed) == [json.loads(output)]
    assert run("job", "delete", "nightly", "--app-id=a", address)[0] == 0
    code, output = run("job", "get", "nightly", "--app-id=a", address)
    assert code == Exit.NOT_FOUND and "job not found" in output


def test_help_is_quick() -> None:
    """Late imports keep the command light: help needs neither etcd nor aiohttp."""
    check = "import sys; from scheduler.cli import main; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
