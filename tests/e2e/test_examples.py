"""The commands of examples/README.md, each against a replica and a real etcd."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, EtcdServer, Replica, free_port
from tests.support.toolchains import go_build, need, python_environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.interop]
COMMANDS = re.findall(r"`scheduler (sidecar run [^`]+)`", (ROOT / "examples" / "README.md").read_text())
EXAMPLES = {re.search(r"examples/([a-z-]+)", command).group(1): shlex.split(command) for command in COMMANDS}  # type: ignore[union-attr]


def program(example: str, words: list[str]) -> list[str]:
    """What comes after the dashes; an SDK's own environment in place of `python`, a built program in place of `go run`."""
    if example == "backup-grpc":
        assert "dapr[grpc]==1.19.0" in (ROOT / "examples" / example / "requirements.txt").read_text()
        environment = python_environment("dapr-1.19", ROOT / "tests" / "sdk" / "python" / "requirements-1.19.txt")
        return [str(environment), *words[1:]]
    if example == "backup-go":
        assert words == ["go", "run", "-C", "examples/backup-go", "."]
        return [str(go_build(ROOT / "examples" / example, "example-go"))]
    if example == "backup-curl":
        need("curl")
        return words
    return [sys.executable, *words[1:]]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    directory: Path = tmp_path_factory.mktemp("scheduler")
    etcd = EtcdServer(directory / "etcd").start()
    replica = Replica("replica-0", directory / "replica", etcd.endpoint).start().wait_healthy()
    yield replica
    replica.close()
    etcd.close()


def test_there_are_four() -> None:
    assert list(EXAMPLES) == ["backup", "backup-curl", "backup-grpc", "backup-go"]
    assert sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_dir()) == sorted(EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_schedules_its_job_and_sees_every_trigger(scheduler: Replica, example: str) -> None:
    words = EXAMPLES[example]
    dashes = words.index("--")
    port = words.index("--app-port") + 1
    words[port] = str(free_port())
    command = [sys.executable, "-m", "scheduler", *words[:dashes], f"--scheduler-host-address={scheduler.address}"]
    command += [f"--dapr-http-port={free_port()}", f"--dapr-grpc-port={free_port()}", "--metrics-port=0"]
    command += ["--", *program(example, words[dashes + 1 :])]
    env = {"BACKUP_REPEATS": "3", "EXIT_AFTER_SUMMARY": "1"}
    result = subprocess.run(
        ["env", *(f"{key}={value}" for key, value in env.items()), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    triggers = re.findall(r"trigger +(\d)/3 .*prod-db-backup .*my-prod-db", result.stdout)
    assert triggers == ["1", "2", "3"], result.stdout
