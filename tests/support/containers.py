"""The image, built from deploy/Dockerfile, and podman to run it."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT

# What a cluster under Pod Security "restricted" grants, and no more.
RESTRICTED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=512m",
    "--pids-limit=100",
)


@cache
def container_tools() -> Path:
    if os.environ.get("CI") != "true" and not (os.geteuid() == 0 and shutil.which("apt-get")):
        pytest.skip("building and running containers needs root and apt-get")
    answer = subprocess.run([ROOT / "scripts" / "container-tools"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(answer.stdout.strip())


@cache
def container_image() -> str:
    container_tools()
    answer = subprocess.run([ROOT / "scripts" / "container-image"], stdout=subprocess.PIPE, text=True, check=True)
    return answer.stdout.strip()


def environment() -> dict[str, str]:
    tools = container_tools()
    return {
        **os.environ,
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "CONTAINERS_STORAGE_CONF": str(tools / "storage.conf"),
        "CONTAINERS_CONF": str(tools / "containers.conf"),
    }


def podman(*arguments: str, check: bool = True, timeout_s: float = 120.0) -> str:
    """What it prints, its own words of failure included."""
    result = subprocess.run(
        ["podman", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert result.returncode == 0 or not check, result.stdout
    return result.stdout.strip()


def local_image(name: str, program: Path, place: str, *, entrypoint: bool = False) -> None:
    """A program on the base image, under a name that a composition asks for, since no registry can be asked."""

    def buildah(*arguments: str | Path) -> str:
        result = subprocess.run(["buildah", *arguments], env=environment(), capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    container = buildah("from", (container_tools() / "base").read_text().strip())
    buildah("copy", "--quiet", container, program, place)
    if entrypoint:
        buildah("config", "--entrypoint", json.dumps([place]), container)
    buildah("commit", "--quiet", "--rm", container, name)


class Container:
    """One that runs detached, on this machine's loopback, until it is removed."""

    def __init__(self, *arguments: str) -> None:
        self.id = podman("run", "--detach", "--network=host", *RESTRICTED, *arguments)

    def inspect(self) -> dict[str, Any]:
        return json.loads(podman("inspect", self.id))[0]

    def signal(self, name: str) -> None:
        podman("kill", f"--signal={name}", self.id)

    def wait(self, timeout_s: float) -> int:
        """The exit code."""
        return int(podman("wait", self.id, timeout_s=timeout_s))

    def logs(self) -> str:
        return podman("logs", self.id)

    def remove(self) -> None:
        podman("rm", "--force", "--time=0", "--volumes", self.id)
