"""What a person sees who does the wrong thing first: one line that says what, and one that says what to do. No traceback, ever."""

import socket

import pytest

from tests.support.certificates import Authority
from tests.support.processes import EtcdServer, Replica, free_port, wait_until
from tests.support.terminal import Terminal

pytestmark = pytest.mark.e2e


def seen(*arguments: str, code: int, columns: int = 300) -> str:
    """All that a command shows, lines joined as a person reads them."""
    with Terminal(*arguments, columns=columns) as terminal:
        assert terminal.wait() == code, terminal.text
        assert "Traceback" not in terminal.text
        terminal.check_sane()
        return " ".join(terminal.text.split())


def test_a_command_that_is_none() -> None:
    assert "No such command 'clstr'. Did you mean 'cluster'?" in seen("clstr", code=2)
    assert "No such option '--prot'. Did you mean '--port'?" in seen("serve", "--prot=5", code=2)


@pytest.mark.parametrize("command", [[], ["serve"], ["cluster"], ["top"], ["doctor"], ["job", "run-now"]])
def test_help_fits_the_window(command: list[str]) -> None:
    with Terminal(*command, "--help", columns=80, lines=200) as terminal:
        assert terminal.wait() == 0
        assert "Usage: " in terminal.text and not [line for line in terminal.text.splitlines() if len(line) > 80]


def test_no_server() -> None:
    port = free_port()
    for command in (["cluster", "status"], ["top"], ["job", "list", "--app-id=a"]):
        text = seen(*command, f"--address=127.0.0.1:{port}", code=3)
        assert f"Nothing listens at 127.0.0.1:{port}. Start a scheduler with `scheduler serve`" in text
    assert "[default: 127.0.0.1:50006]" in seen("top", "--help", code=0)


@pytest.mark.parametrize("address", ["127.0.0.1", "http://127.0.0.1:50006", "localhost:port", ":50006"])
def test_an_address_that_is_none(address: str) -> None:
    assert f"--address: address '{address}' is not host:port" in seen(
        "cluster", "status", f"--address={address}", code=1
    )


def test_a_certificate_that_is_not_there(tmp_path) -> None:
    text = seen(
        "cluster",
        "status",
        f"--tls-cert-file={tmp_path / 'none.crt'}",
        f"--tls-key-file={tmp_path / 'none.key'}",
        code=1,
    )
    assert "--tls-... files" in text and "none.crt" in text


def test_a_port_that_is_taken(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag in ("--port", "--healthz-port", "--metrics-port"):
            free = [f"{one}=0" for one in ("--port", "--healthz-port", "--metrics-port") if one != flag]
            more = [f"--etcd-data-dir={tmp_path}", "--etcd-client-endpoints=http://127.0.0.1:9"]
            text = seen("serve", f"{flag}={port}", *free, *more, code=1)
            assert f"scheduler: {flag}: " in text and "already in use" in text and str(port) in text


def test_etcd_is_down(tmp_path) -> None:
    """A replica waits for it, says so once, and serves as soon as it is there."""
    etcd = EtcdServer(tmp_path / "etcd")
    more = ["--port=0", "--healthz-port=0", "--metrics-port=0", f"--etcd-data-dir={tmp_path}", "--log-level=info"]
    with Terminal("serve", *more, f"--etcd-client-endpoints={etcd.endpoint}", columns=600) as terminal:
        terminal.wait_for("etcd_not_there")
        text = " ".join(terminal.text.split())
        assert f"cannot connect to 127.0.0.1:{etcd.port}" in text and "--etcd-client-endpoints says where" in text
        try:
            etcd.start()
            terminal.wait_for("registered")
            assert terminal.text.count("etcd_not_there") == 1
            terminal.press("\x03")
            assert terminal.wait() == 0
        finally:
            etcd.close()


def test_a_bad_schedule_a_wrong_port_and_no_permission(cluster, tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.leaf("scheduler", ["spiffe://localhost/ns/dapr-system/dapr-scheduler"])
    flags = [f"--tls-cert-file={certificate}", f"--tls-key-file={key}", f"--tls-ca-file={authority.ca_file}"]
    replica: Replica = cluster(1, *flags, settle_hosts=False).replicas[0]
    mine, its_key = authority.leaf("shop", ["spiffe://public/ns/default/shop"])
    address, ca = f"--address=localhost:{replica.port}", f"--tls-ca-file={authority.ca_file}"
    tls = [address, ca, f"--tls-cert-file={mine}", f"--tls-key-file={its_key}"]

    text = seen("job", "schedule", "nightly", "--app-id=shop", "--schedule=every day", *tls, code=1)
    assert "schedule: " in text and "expected exactly 6 fields, found 2" in text
    text = seen("job", "list", "--app-id=bank", *tls, code=5)
    assert "identity does not match request" in text and "--tls-cert-file must be the certificate of --app-id" in text
    text = seen("top", *tls, code=5)
    assert "spiffe://public/ns/default/shop is not among this replica's --admin-identities" in text
    assert "speaks TLS: add --tls-ca-file" in seen("cluster", "status", address, code=3)
    assert "add --tls-cert-file and --tls-key-file" in seen("cluster", "status", address, ca, code=3)
    text = seen("cluster", "status", f"--address=localhost:{replica.health_port}", code=3)
    assert "An HTTP server answers" in text and "gRPC port" in text


def test_ctrl_c_while_waiting_is_no_error_of_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with Terminal("cluster", "members", f"--address=127.0.0.1:{silent.getsockname()[1]}", columns=300) as terminal:
            connection, _ = silent.accept()
            wait_until(lambda: connection.recv(1) != b"", timeout_s=30, what="it asks")
            terminal.press("\x03")
            assert terminal.wait() == 130
            assert "Traceback" not in terminal.text
        connection.close()
