"""WatchHosts (scheduler-service.md 4.6): the current list at once, then a new one only when the set really changed."""

from collections.abc import Callable

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.cluster.hosts import HostList
from scheduler.http2.call import Call, Method, Streaming
from scheduler.http2.grpc import RpcError
from scheduler.rpc.jobs import SERVICE


class Hosts:
    """The servicer."""

    def __init__(self, hosts: HostList) -> None:
        """`hosts` is the cluster's."""
        self._hosts = hosts

    def methods(self) -> dict[str, Method]:
        """By full path."""
        return {f"/{SERVICE}/WatchHosts": Streaming(lambda call: _HostWatch(call, self._hosts))}


class _HostWatch:
    """One watcher."""

    def __init__(self, call: Call, hosts: HostList) -> None:
        self._call = call
        self._unsubscribe: Callable[[], None] = hosts.subscribe(self._send)
        call.start()
        if hosts.known:
            self._send(hosts.addresses)

    def _send(self, addresses: tuple[str, ...]) -> None:
        answer = pb.WatchHostsResponse(hosts=[pb.Host(address=address) for address in addresses])
        self._call.send(answer.SerializeToString())

    def on_message(self, message: bytes) -> None:
        """The request is empty and has nothing to say."""

    def on_half_close(self) -> None:
        """The request is complete; the watch goes on."""

    def on_writable(self) -> None:
        """Lists are small: nothing waits for room."""

    def on_closed(self, error: RpcError | None) -> None:  # noqa: ARG002 - the sink's contract
        """The watcher is gone."""
        self._unsubscribe()
