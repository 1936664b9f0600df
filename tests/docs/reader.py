"""Follows a page of the documentation as a reader would, in a network of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT
from tests.support.toolchains import need, python_environment

DOCS = ROOT / "docs"
# Pages whose commands are typed. Those of docs/faults.md are a test suite of their own.
FOLLOWED = sorted(
    str(path.relative_to(DOCS))
    for path in DOCS.rglob("*.md")
    if "```console" in path.read_text() and path.name != "faults.md"
)


def follow(page: str, directory: Path) -> None:
    """Do what it says; what cannot be, or prints something else, fails."""
    for tool in ("unshare", "curl", "openssl"):
        need(tool)
    (directory / "scheduler").symlink_to(ROOT)
    here = directory / "here"
    here.mkdir()
    if "dapr-env" in (DOCS / page).read_text():
        requirements = ROOT / "tests" / "sdk" / "python" / "requirements-1.19.txt"
        (here / "dapr-env").symlink_to(python_environment("dapr-1.19", requirements).parents[1])
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        [
            "unshare",
            "--map-root-user",
            "--net",
            sys.executable,
            "-m",
            "tests.docs.console",
            str(DOCS / page),
            str(here),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
