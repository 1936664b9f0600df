"""What a fault needs of the machine, and a clear word where it is missing: a scenario that cannot run fails, it is not skipped."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.support.processes import ROOT

NEWER_ETCD = ROOT / ".tools/etcd-3.5/etcd"
FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
)


class MissingTool(Exception):
    """The machine lacks what the scenario needs."""


def require(*tools: str) -> None:
    """Raises MissingTool, naming all that is missing and the command that installs it."""
    missing = [tool for tool in tools if not _has(tool)]
    if missing:
        raise MissingTool(f"this machine lacks {', '.join(missing)}: run scripts/faults-setup as root")


@cache
def _has(tool: str) -> bool:
    if tool == "root":
        return os.geteuid() == 0
    if tool == "faketime":
        return any(path.exists() for path in FAKETIME)
    return shutil.which(tool) is not None or Path(f"/usr/sbin/{tool}").exists()


def faketime_library() -> Path:
    require("faketime")
    return next(path for path in FAKETIME if path.exists())


@cache
def etcd_binary() -> Path:
    """SCHEDULER_FAULTS_ETCD, else the newer etcd of scripts/faults-setup, else the one that the tests use."""
    named = os.environ.get("SCHEDULER_FAULTS_ETCD")
    if named:
        return Path(named)
    if NEWER_ETCD.exists():
        return NEWER_ETCD
    printed = subprocess.run([ROOT / "scripts/etcd-binary"], capture_output=True, text=True, check=True).stdout
    return Path(printed.strip())


@cache
def etcd_version() -> str:
    printed = subprocess.run([etcd_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"etcd Version: (\S+)", printed)
    return found[1] if found else "unknown"
