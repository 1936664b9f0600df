"""The cases of gRPC's own interoperability client (in Go) against the test service on our server, in plaintext and with TLS."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.processes import Child, answers, free_port, wait_until
from tests.support.toolchains import go_build

pytestmark = [pytest.mark.interop, pytest.mark.slow]
HERE = Path(__file__).parent
CASES = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "pick_first_unary",
    # These hold each call to a second.
    pytest.param("rpc_soak", marks=pytest.mark.alone),
    pytest.param("channel_soak", marks=pytest.mark.alone),
]
# The client's other cases, each with the reason why it is left out.
LEFT_OUT = {
    "compute_engine_creds": "asks the metadata server of a cloud's machine",
    "service_account_creds": "asks a cloud's token server",
    "jwt_token_creds": "needs a cloud account's key",
    "per_rpc_creds": "asks a cloud's token server",
    "oauth2_auth_token": "asks a cloud's token server",
    "google_default_credentials": "asks a cloud's token server",
    "compute_engine_channel_credentials": "asks the metadata server of a cloud's machine",
    "orca_per_rpc": "load reports in trailers, which we do not send",
    "orca_oob": "load reports as a service, which we do not offer",
}
SOAK = ["-soak_iterations=100", "-soak_overall_timeout_seconds=60"]


@pytest.fixture(scope="module")
def client() -> Path:
    return go_build(HERE / "go", "interop-client", "google.golang.org/grpc/interop/client")


@pytest.fixture(scope="module", params=["plaintext", "TLS"])
def flags(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """How the client reaches the running service."""
    directory, port = tmp_path_factory.mktemp("service"), free_port()
    command = [sys.executable, "-m", "tests.interop.service", str(port)]
    reach = ["-server_host=127.0.0.1", f"-server_port={port}"]
    if request.param == "TLS":
        authority = Authority(directory / "ca")
        command += [str(path) for path in authority.leaf("service", [])]
        reach += ["-use_tls", "-use_test_ca", f"-ca_file={authority.ca_file}", "-server_host_override=localhost"]
    service = Child(directory / "service.log")
    service.spawn(command)
    try:
        wait_until(lambda: answers(port), timeout_s=30, what="the service answers")
        yield reach
        assert "Traceback" not in service.tail(), service.tail()
    finally:
        service.close()


@pytest.mark.parametrize("case", CASES)
def test_a_case_of_the_interoperability_client_passes(client: Path, flags: list[str], case: str) -> None:
    command = [str(client), f"-test_case={case}", *flags, *SOAK]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def test_every_case_that_the_client_names_is_run_or_left_out_for_a_reason(client: Path) -> None:
    usage = subprocess.run([str(client), "-help"], capture_output=True, text=True, timeout=30, check=False).stderr
    described = usage[usage.index("-test_case") :].split('(default "large_unary")')[0]
    named = set(re.findall(r"^\s+([a-z_0-9]+) ?: ", described, re.MULTILINE))
    assert named <= {*map(str, CASES), *LEFT_OUT}
    assert len(named) > 20, named
