"""`scheduler completion`: the scripts, and what bash completes by its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli import main
from tests.support.processes import ROOT

COMPLETE = """
set -eu
source <(scheduler completion bash)
complete -p scheduler >/dev/null
COMP_WORDS=(scheduler "$@") COMP_CWORD=$#
_scheduler_completion scheduler
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(directory: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words; the command is the one of this checkout."""
    command = directory / "scheduler"
    command.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from scheduler.cli import main; main(prog_name=\'scheduler\')" "$@"\n'
    )
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    return set(ran.stdout.split())


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    assert completed(tmp_path, "sch") == {"schedule"}
    assert {"export", "import", "delete-all"} <= completed(tmp_path, "job", "")
    assert completed(tmp_path, "job", "schedule", "--failure-p") == {"--failure-policy"}
    assert completed(tmp_path, "job", "list", "-o", "") == {"table", "json", "yaml"}
    assert completed(tmp_path, "serve", "--etcd-client-p") >= {"--etcd-client-port", "--etcd-client-password-file"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    ran = CliRunner().invoke(main, ["completion", shell])
    assert ran.exit_code == 0 and f"_SCHEDULER_COMPLETE={shell}_complete" in ran.output
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2
