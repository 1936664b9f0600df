"""Certificates and trust anchors exchanged on a running replica (reliability.md T14): nobody's call fails, and who is not trusted any more goes."""

import shutil
import ssl
import threading
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from cryptography import x509

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.support.certificates import Authority
from tests.support.client import SERVICE, job_metadata
from tests.support.processes import Replica, wait_until

pytestmark = pytest.mark.e2e
GOOD = "spiffe://public/ns/default/app"
OWN = ["spiffe://localhost/ns/dapr-system/dapr-scheduler"]


class Files:
    """The replica's files, exchanged as Kubernetes does: a link to a directory, swapped."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.link = directory / "current"
        self._directory, self._count = directory, 0

    def put(self, certificate: bytes, key: bytes, anchors: bytes) -> None:
        self._count += 1
        new = self._directory / f"v{self._count}"
        new.mkdir()
        for name, content in (("tls.crt", certificate), ("tls.key", key), ("ca.crt", anchors)):
            (new / name).write_bytes(content)
        temporary = self._directory / "next"
        temporary.symlink_to(new)
        temporary.replace(self.link)

    @property
    def flags(self) -> list[str]:
        return [
            f"--tls-cert-file={self.link}/tls.crt",
            f"--tls-key-file={self.link}/tls.key",
            f"--tls-ca-file={self.link}/ca.crt",
        ]


def served_issuer(port: int) -> str:
    """Who has signed what the replica shows now."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=30)
    return x509.load_pem_x509_certificate(pem.encode()).issuer.rfc4514_string()


def reloads(replica: Replica, result: str) -> int:
    with urlopen(f"http://127.0.0.1:{replica.metrics_port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        int(float(line.split()[-1]))
        for line in lines
        if line.startswith(f'scheduler_certificate_reloads_total{{result="{result}"}}')
    )


class Caller:
    """Somebody who calls all the time on one connection, and keeps a stream open."""

    def __init__(self, port: int, authority: Authority, anchors: bytes) -> None:
        certificate, key = authority.leaf(f"caller{id(self)}", [GOOD])
        self.credentials = grpc.ssl_channel_credentials(anchors, key.read_bytes(), certificate.read_bytes())
        self.port = port
        self.calls = 0
        self.errors: list[grpc.StatusCode] = []
        self.stream_end: grpc.StatusCode | None = None
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call), threading.Thread(target=self._watch)]
        for thread in self._threads:
            thread.start()

    def channel(self) -> grpc.Channel:
        return grpc.secure_channel(
            f"localhost:{self.port}", self.credentials, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    def _call(self) -> None:
        with self.channel() as channel:
            rpc = channel.unary_unary(f"{SERVICE}/GetJob")
            request = pb.GetJobRequest(name="x", metadata=job_metadata()).SerializeToString()
            while not self._stop.wait(0.01):
                try:
                    rpc(request, timeout=30)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.NOT_FOUND:
                        self.errors.append(error.code())
                self.calls += 1

    def _watch(self) -> None:
        def requests():
            yield pb.WatchJobsRequest(
                initial=pb.WatchJobsRequestInitial(app_id="app", namespace="default")
            ).SerializeToString()
            self._stop.wait()

        with self.channel() as channel:
            try:
                for _ in channel.stream_stream(f"{SERVICE}/WatchJobs")(requests()):
                    pass
            except grpc.RpcError as error:
                self.stream_end = None if self._stop.is_set() else error.code()

    def once(self) -> grpc.StatusCode:
        """On a new connection."""
        with self.channel() as channel:
            try:
                channel.unary_unary(f"{SERVICE}/ListJobs")(
                    pb.ListJobsRequest(metadata=job_metadata()).SerializeToString(), timeout=30
                )
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)


def test_rotation_under_load(etcd, tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    both = old.ca_file.read_bytes() + new.ca_file.read_bytes()
    first, second = ([path.read_bytes() for path in authority.leaf("own", OWN)] for authority in (old, new))
    files = Files(tmp_path / "files")
    files.put(*first, old.ca_file.read_bytes())
    replica = Replica("one", tmp_path / "one", etcd.endpoint, *files.flags).start().wait_healthy()
    trusting, departing = Caller(replica.port, new, both), None
    try:
        assert "test authority old" in served_issuer(replica.port)
        assert trusting.once() is not grpc.StatusCode.OK, "signed by somebody who is not trusted yet"
        departing = Caller(replica.port, old, both)
        wait_until(lambda: departing.calls > 20 and not departing.errors, timeout_s=30, what="calls")

        # Both authorities count, and the replica shows its new certificate to new connections; nothing breaks.
        files.put(*second, both)
        wait_until(
            lambda: "test authority new" in served_issuer(replica.port), timeout_s=30, what="the new certificate"
        )
        wait_until(
            lambda: trusting.once() is grpc.StatusCode.OK, timeout_s=30, what="the new authority's clients are in"
        )
        trusting.errors.clear()
        assert departing.once() is grpc.StatusCode.OK
        done = departing.calls
        wait_until(lambda: departing.calls > done + 50, timeout_s=30, what="more calls")
        assert (departing.errors, departing.stream_end) == ([], None)

        # Garbage is refused, said so, and changes nothing.
        files.put(b"garbage", second[1], both)
        wait_until(lambda: reloads(replica, "failed") == 1, timeout_s=30, what="the refusal is counted")
        assert "certificate_refused" in replica.tail()
        assert departing.once() is grpc.StatusCode.OK

        # The old authority goes: its clients' new connections, calls and streams end; the others notice nothing.
        wait_until(lambda: trusting.calls > 50, timeout_s=30, what="the new authority's client calls")
        trusting.errors.clear()
        files.put(*second, new.ca_file.read_bytes())
        wait_until(
            lambda: departing.once() is not grpc.StatusCode.OK, timeout_s=30, what="the old authority's clients are out"
        )
        wait_until(
            lambda: grpc.StatusCode.UNAUTHENTICATED in departing.errors,
            timeout_s=30,
            what="their standing connections too",
        )
        wait_until(
            lambda: departing.stream_end is grpc.StatusCode.UNAUTHENTICATED, timeout_s=60, what="their streams too"
        )
        assert trusting.once() is grpc.StatusCode.OK
        assert trusting.errors == []
        assert reloads(replica, "ok") == 2
    finally:
        for caller in (trusting, departing):
            if caller is not None:
                caller.close()
        replica.close()


def test_a_stream_ends_soon_after_its_certificate(etcd, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    files = Files(tmp_path / "files")
    files.put(*(path.read_bytes() for path in authority.leaf("own", OWN)), authority.ca_file.read_bytes())
    replica = Replica("one", tmp_path / "one", etcd.endpoint, *files.flags).start().wait_healthy()
    leaf = authority.leaf("short", [GOOD], days=6 / 86_400)
    authority.leaf = lambda *_: leaf  # type: ignore[method-assign]
    caller = Caller(replica.port, authority, authority.ca_file.read_bytes())
    try:
        wait_until(lambda: caller.calls > 5, timeout_s=30, what="calls")
        assert not caller.errors
        wait_until(lambda: grpc.StatusCode.UNAUTHENTICATED in caller.errors, timeout_s=30, what="calls are refused")
        wait_until(lambda: caller.stream_end is grpc.StatusCode.UNAUTHENTICATED, timeout_s=40, what="the stream ends")
    finally:
        caller.close()
        replica.close()
        shutil.rmtree(tmp_path / "files")
