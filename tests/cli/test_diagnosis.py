"""What a command says where no scheduler answers: what is there instead, and what to do."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from scheduler.cli.diagnosis import diagnose
from scheduler.cli.endpoint import Endpoint
from scheduler.http2.client import ConnectError
from tests.cli.test_cli import run
from tests.support.certificates import Authority
from tests.support.processes import free_port
from tests.support.replicas import Cluster


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that handles one connection after the other, until the test ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                with suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def http(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def hangs_up(connection: socket.socket) -> None:
    connection.recv(1)


def explained(port: int, *more: str) -> str:
    code, text = run("cluster", "members", f"--address=127.0.0.1:{port}", *more)
    assert code == 3 and len(text.splitlines()) == 2
    return text.splitlines()[1]


def test_nothing_listens() -> None:
    port = free_port()
    assert explained(port).startswith(f"Nothing listens at 127.0.0.1:{port}. Start a scheduler with `scheduler serve`")


def test_a_host_that_is_none() -> None:
    code, text = run("cluster", "members", "--address=no-such-host.invalid:50006")
    assert code == 3 and "The host 'no-such-host.invalid' is not known here: look at --address." in text


def test_a_replica_that_is_advertised_where_nobody_here_can_reach_it(cluster: Callable[..., Cluster]) -> None:
    one = cluster(1, "--override-broadcast-host-port=no-such-host.invalid:50006", settle_hosts=False)
    code, text = run("job", "verify", "--app-id=verify", f"--address={one.replicas[0].address}")
    assert code == 3 and "cannot connect to no-such-host.invalid:50006" in text
    assert f"{one.replicas[0].address} named it, and it cannot be reached from here" in text
    assert "etcd" not in text and "--override-broadcast-host-port" in text


def test_a_scheduler_that_answers_by_now(cluster: Callable[..., Cluster]) -> None:
    address = cluster(1).addresses[0]
    endpoint = Endpoint(address, None, None, None, None)
    text = asyncio.run(diagnose(endpoint, ConnectError(address, "[Errno -3] Temporary failure in name resolution")))
    assert text == "It answers by now: try again."


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "\u2028"])
def test_a_host_that_cannot_be_a_name(host: str) -> None:
    code, text = run("cluster", "members", f"--address={host}:50006")
    assert code == 1 and "its host cannot be a name" in text


def test_an_http_server() -> None:
    with serving(http) as port:
        assert "An HTTP server answers" in explained(port) and "50006" in explained(port)


def test_something_else() -> None:
    with serving(hangs_up) as port:
        assert "does not answer as a scheduler" in explained(port)


def test_tls_where_there_is_none(tmp_path) -> None:
    with serving(hangs_up) as port:
        assert "does not speak TLS: leave --tls-ca-file" in explained(
            port, f"--tls-ca-file={Authority(tmp_path).ca_file}"
        )


@pytest.mark.parametrize("mutual", [False, True])
def test_a_tls_server(tmp_path, mutual: bool) -> None:
    authority = Authority(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.leaf("server", ["spiffe://a/ns/b/c"]))
    context.set_alpn_protocols(["h2"])
    if mutual:
        context.load_verify_locations(authority.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED

    def secure(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(1)

    with serving(secure) as port:
        assert "speaks TLS: add --tls-ca-file" in explained(port)
        # The right authority, and the server wants to know who we are: or it is another's altogether.
        ca = authority.ca_file if mutual else Authority(tmp_path / "other").ca_file
        text = explained(port, f"--tls-ca-file={ca}", "--tls-server-name=localhost")
        assert "add --tls-cert-file and --tls-key-file" in text
