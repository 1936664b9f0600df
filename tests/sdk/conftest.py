"""A scheduler for all SDKs, and for each SDK an app beside a sidecar of its own, both with API tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sdk.app import Sdk, SdkApp, beside_a_sidecar
from tests.support.processes import EtcdServer, Replica
from tests.support.toolchains import go_build, java_program, python_environment

HERE = Path(__file__).parent


def _python(version: str, flavour: str, name: str) -> Sdk:
    interpreter = python_environment(f"dapr-{version}", HERE / "python" / f"requirements-{version}.txt")
    return Sdk(name=name, command=[str(interpreter), str(HERE / "python" / "app.py"), flavour])


SDKS = {
    "python-1.19": lambda name: _python("1.19", "sync", name),
    "python-1.19-asyncio": lambda name: _python("1.19", "asyncio", name),
    "python-1.18": lambda name: _python("1.18", "sync", name),
    "python-1.17": lambda name: _python("1.17", "sync", name),
    # Go's jobs API of that time has neither overwriting nor failure policies.
    "go-1.11": lambda name: Sdk(
        name=name, command=[str(go_build(HERE / "go", "sdk-app"))], overwrite=False, policies=False
    ),
    "java-1.17": lambda name: Sdk(
        name=name,
        command=java_program(HERE / "java", "sdk-app"),
        protocol="http",
        durations=False,
        type_urls=False,
        intervals=False,
    ),
}


@pytest.fixture(scope="session")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    directory = tmp_path_factory.mktemp("scheduler")
    etcd = EtcdServer(directory / "etcd").start()
    replica = Replica("replica-0", directory / "replica", etcd.endpoint).start().wait_healthy()
    yield replica
    replica.close()
    etcd.close()


@pytest.fixture(scope="module", params=SDKS)
def app(
    request: pytest.FixtureRequest, scheduler: Replica, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SdkApp]:
    sdk = SDKS[request.param](request.param)
    with beside_a_sidecar(sdk, scheduler, tmp_path_factory.mktemp(sdk.name)) as (one, _):
        yield one
