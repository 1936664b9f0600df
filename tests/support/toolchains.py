"""Programs in other languages and environments, built once into the checkout's .cache; each built thing is known by what it is built from.

In CI a missing toolchain is a failure; elsewhere it skips the test and says so.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import ROOT

CACHE = ROOT / ".cache"


def need(command: str) -> None:
    """The test cannot run without it."""
    if shutil.which(command) is None:
        assert os.environ.get("CI") != "true", f"CI needs {command}"
        pytest.skip(f"no {command} on this machine")


def installed(command: str) -> None:
    """The test cannot run without it; CI, as root, gets it from Debian, where the package is called as the command."""
    if os.environ.get("CI") == "true" and shutil.which(command) is None:
        with _alone("apt"):
            _run(["apt-get", "-qq", "update"])
            install = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", command]
            _run(install, env={"DEBIAN_FRONTEND": "noninteractive"})
    need(command)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time: tests run in several."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


def _built(target: Path, sources: list[Path], build: Callable[[], None]) -> None:
    """Build `target` unless it has been built from just these sources."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    stamp = target.with_name(f"{target.name}.stamp")
    with _alone(target.name):
        if not (target.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest()):
            stamp.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            build()
            stamp.write_text(digest.hexdigest())


def python_environment(name: str, requirements: Path) -> Path:
    """The interpreter of a virtual environment with these hash-locked requirements."""
    target = CACHE / "environments" / name

    def build() -> None:
        shutil.rmtree(target, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(target)])
        pip = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--require-hashes", "-r", str(requirements)])

    _built(target, [requirements], build)
    return target / "bin" / "python"


def go_install(package: str, name: str) -> Path:
    """A Go command from the module registry, by its version."""
    need("go")
    target = CACHE / "go-bin" / name
    with _alone(f"go-{name}"):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _run(["go", "install", package], env={"GOBIN": str(target.parent)})
    return target


def go_build(module: Path, name: str, package: str = ".") -> Path:
    """A program of a Go module in this repository, or of a module that it names as a tool; its go.sum locks what it needs."""
    need("go")
    target = CACHE / "go-bin" / name
    sources = [path for path in module.rglob("*") if path.suffix == ".go" or path.name in {"go.mod", "go.sum"}]
    _built(target, sources, lambda: _run(["go", "build", "-mod=readonly", "-o", str(target), package], cwd=module))
    return target


def npm_install(package: Path, name: str) -> Path:
    """A copy of a Node package of this repository with its node_modules."""
    need("npm")
    target = CACHE / "node" / name
    sources = [path for path in package.rglob("*") if path.is_file()]

    def build() -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(package, target)
        _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=target)

    _built(target, sources, build)
    return target


def java_program(module: Path, name: str) -> list[str]:
    """The command of a Java program of this repository: App.java, and what its pom.xml needs."""
    need("mvn")
    need("javac")
    target = CACHE / "java" / name

    def build() -> None:
        shutil.rmtree(target, ignore_errors=True)
        copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
        _run(
            ["mvn", "-q", "-B", "-C", copy, "-DincludeScope=runtime", f"-DoutputDirectory={target / 'lib'}"], cwd=module
        )
        _run(["javac", "-cp", f"{target / 'lib'}/*", "-d", str(target), str(module / "App.java")])

    _built(target, [module / "App.java", module / "pom.xml"], build)
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{target}:{target / 'lib'}/*", "App"]
