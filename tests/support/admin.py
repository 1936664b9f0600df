"""An operator: plain grpcio on the admin service, so that a fault of our client cannot hide itself."""

from pathlib import Path

import grpc

from scheduler._pb.scheduler_admin.v1 import admin_pb2 as pb
from tests.support.certificates import Authority

SERVICE = "/scheduler.admin.v1.Admin"


class Operator:
    """Calls to one replica."""

    def __init__(self, address: str, authority: Authority | None = None, leaf: tuple[Path, Path] | None = None) -> None:
        if authority is None:
            self.channel = grpc.insecure_channel(address)
            return
        files = (leaf[1].read_bytes(), leaf[0].read_bytes()) if leaf else (None, None)
        credentials = grpc.ssl_channel_credentials(authority.ca_file.read_bytes(), *files)
        self.channel = grpc.secure_channel(address, credentials)

    def raw(self, method: str, request: bytes, *, timeout: float = 10.0) -> bytes:
        return self.channel.unary_unary(f"{SERVICE}/{method}")(request, timeout=timeout)

    def call(self, method: str, **fields):
        request = getattr(pb, f"{method}Request")(**fields)
        return getattr(pb, f"{method}Response").FromString(self.raw(method, request.SerializeToString()))

    def close(self) -> None:
        self.channel.close()
