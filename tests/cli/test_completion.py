"""`scheduler completion`: the scripts, and what each shell completes by its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli import main
from tests.support.processes import ROOT
from tests.support.terminal import Terminal
from tests.support.toolchains import installed

COMPLETE = """
set -eu
source <(scheduler completion bash)
complete -p scheduler >/dev/null
COMP_WORDS=(scheduler "$@") COMP_CWORD=$#
_scheduler_completion scheduler
printf '%s\\n' "${COMPREPLY[@]}"
"""


def environment(directory: Path) -> dict[str, str]:
    """Where `scheduler` is the command of this checkout, and a shell finds nobody's settings."""
    command = directory / "scheduler"
    command.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from scheduler.cli import main; main(prog_name=\'scheduler\')" "$@"\n'
    )
    command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{directory}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(directory),
        "ZDOTDIR": str(directory),
        "XDG_CONFIG_HOME": str(directory),
        "XDG_DATA_HOME": str(directory),
    }


def completed(directory: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    ran = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", *words],
        cwd=ROOT,
        env=environment(directory),
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


# Each shell with nobody's settings, and what it is told before.
SHELLS = {
    "zsh": (["zsh", "-d", "-f", "-i"], "PROMPT='> '; autoload -Uz compinit; compinit -u; source <(scheduler completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "function fish_prompt; echo '> '; end; source (scheduler completion fish | psub)"),
}  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_a_person_completes_with_the_tab_key(shell: str, tmp_path: Path) -> None:
    program, prepare = SHELLS[shell]
    installed(shell)
    with Terminal(program=program, env=environment(tmp_path)) as terminal:
        terminal.press(f"{prepare}; echo rea''dy\r")
        terminal.wait_for("ready")
        for typed, becomes in (
            ("scheduler clu", "scheduler cluster"),
            ("scheduler job schedule --failure-p", "scheduler job schedule --failure-policy"),
            ("scheduler job list -o j", "scheduler job list -o json"),
            ("scheduler serve --config-file /etc/hostna", "scheduler serve --config-file /etc/hostname"),
        ):
            terminal.press(f"{typed}\t")
            terminal.wait_for(becomes)
            terminal.press("\x15")
        terminal.press("scheduler job \t")
        terminal.wait_for("run-now")
        assert "Fire the job NAME once" in terminal.wait_for("delete-all")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    ran = CliRunner().invoke(main, ["completion", shell])
    assert ran.exit_code == 0 and f"_SCHEDULER_COMPLETE={shell}_complete" in ran.output
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2
