"""The Dapr SDK for JavaScript as far as it goes: its handshake, its generated alpha calls, and its servers, which take every job without a handler."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sdk.app import Refused, Sdk, SdkApp, beside_a_sidecar
from tests.support.processes import Replica, wait_until
from tests.support.toolchains import npm_install

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture(scope="module", params=["grpc", "http"])
def javascript(
    request: pytest.FixtureRequest, scheduler: Replica, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SdkApp, int]]:
    """The app, and the port of its sidecar's metrics."""
    program = npm_install(Path(__file__).parent / "js", "sdk-app") / "app.js"
    name = f"javascript-{request.param}"
    sdk = Sdk(name=name, command=["node", str(program), request.param.upper()], protocol=request.param)
    with beside_a_sidecar(sdk, scheduler, tmp_path_factory.mktemp(name)) as running:
        yield running


def test_the_handshake_knows_the_app_by_its_id(javascript: tuple[SdkApp, int]) -> None:
    app, _ = javascript
    assert app.command("metadata", "") == {"client": app.sdk.name, "server": app.sdk.name}


def test_the_generated_calls_schedule_get_and_delete(javascript: tuple[SdkApp, int]) -> None:
    app, _ = javascript
    given = {"schedule": "@every 1h", "repeats": 10, "due_time": "10h", "ttl": "2100-01-01T00:00:00Z"}
    app.schedule("kept", **given, data=bytes(range(256)), type_url="example.com/bytes")
    job = app.get("kept")
    assert {key: job[key] for key in given} == given
    assert (job["name"], job["data"], job["type_url"]) == ("kept", bytes(range(256)), "example.com/bytes")
    with pytest.raises(Refused, match=r"(?i)already.?exists"):
        app.schedule("kept", **given)
    app.delete("kept")
    assert app.gone("kept")


def test_its_server_takes_a_job_at_the_first_delivery(javascript: tuple[SdkApp, int]) -> None:
    """Over gRPC by answering OnJobEventAlpha1, over HTTP by 404, which counts as taken and as a failure."""
    app, metrics_port = javascript

    def counted(result: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        samples = [line for line in lines if line.startswith(f"dapr_component_job_{result}_count")]
        return sum(float(line.split()[-1]) for line in samples)

    app.schedule("taken", due_time="0s")
    wait_until(lambda: app.gone("taken"), timeout_s=30, what="the job is done")
    expected = (1, 0) if app.sdk.protocol == "grpc" else (0, 1)
    assert (counted("success"), counted("failure")) == expected
